package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/seed-637b77f9/changefeed"
)

// epoch is the modification time of every file that tree.write makes. It is a multiple of
// 100 ns, the unit of Windows.
var epoch = time.Date(2001, 2, 3, 4, 5, 6, 700, time.UTC)

// A tree is a temporary directory whose files a test changes.
type tree struct {
	*testing.T
	dir string
}

func newTree(t *testing.T, names ...string) tree {
	d := tree{t, t.TempDir()}
	for _, name := range names {
		d.write(name, "12345")
	}
	return d
}

func (d tree) path(name string) string { return filepath.Join(d.dir, filepath.FromSlash(name)) }

func (d tree) write(name, content string) {
	file := d.path(name)
	require.NoError(d, os.MkdirAll(filepath.Dir(file), 0o755))
	require.NoError(d, os.WriteFile(file, []byte(content), 0o644))
	require.NoError(d, os.Chmod(file, 0o644)) // the umask may have changed it
	d.touch(name, epoch)
}

func (d tree) touch(name string, at time.Time) {
	require.NoError(d, os.Chtimes(d.path(name), at, at))
}

func (d tree) chmod(name string, mode fs.FileMode) {
	require.NoError(d, os.Chmod(d.path(name), mode))
}

func (d tree) stat(name string) fs.FileInfo {
	info, err := os.Lstat(d.path(name))
	require.NoError(d, err)
	return info
}

func (d tree) remove(name string) { require.NoError(d, os.RemoveAll(d.path(name))) }

// A watcher scans, and returns the lines that show prints after each scan.
type watcher struct {
	*testing.T
	*scanner
	feed    changefeed.Stream[changefeed.Change[File]]
	reports []string
}

// newWatcher returns a watcher that has made its first scan.
func newWatcher(t *testing.T, root fs.FS) *watcher {
	w := &watcher{T: t}
	w.scanner = newScanner(root, func(err error) { w.reports = append(w.reports, err.Error()) })
	require.NoError(t, w.scan(t.Context()))
	w.feed = w.files.Changes(t.Context())
	return w
}

// next scans and returns a line for each change.
func (w *watcher) next() (lines []string) {
	before := w.files.Seq()
	require.NoError(w, w.scan(w.Context()))
	var out strings.Builder
	require.NoError(w, show(&out, w.feed.Limit(int(w.files.Seq()-before))))
	for line := range strings.Lines(out.String()) {
		lines = append(lines, strings.TrimSuffix(line, "\n"))
	}
	return lines
}

func TestAScanTellsWhatChanged(t *testing.T) {
	for _, test := range []struct {
		name string
		edit func(d tree)
		want []string
	}{
		{"nothing", func(tree) {}, nil},
		{"written again, to the same", func(d tree) { d.write("a", "54321") }, nil},
		{"created", func(d tree) { d.write("b", "123") }, []string{"created b (3 bytes)"}},
		{
			"created below", func(d tree) { d.write("dir/new/b", "") },
			[]string{"created dir/new/b (0 bytes)"},
		},
		{"size", func(d tree) { d.write("a", "1") }, []string{"changed a (5 -> 1 bytes)"}},
		{
			"modification time, by the least", func(d tree) { d.touch("dir/c", epoch.Add(100*time.Nanosecond)) },
			[]string{"changed dir/c (modified 2001-02-03T04:05:06.0000008Z)"},
		},
		{"deleted", func(d tree) { d.remove("a") }, []string{"deleted a"}},
		{
			"a directory deleted", func(d tree) { d.remove("dir") },
			[]string{"deleted dir/c", "deleted dir/deep/e"},
		},
		{
			"all deleted", func(d tree) { d.remove("") },
			[]string{"deleted a", "deleted dir/c", "deleted dir/deep/e"},
		},
		{"a directory made", func(d tree) { require.NoError(d, os.Mkdir(d.path("b"), 0o755)) }, nil},
		{
			"a file becomes a directory", func(d tree) { d.remove("a"); d.write("a/b", "1") },
			[]string{"created a/b (1 bytes)", "deleted a"},
		},
		{
			"a directory becomes a file", func(d tree) { d.remove("dir"); d.write("dir", "1") },
			[]string{"created dir (1 bytes)", "deleted dir/c", "deleted dir/deep/e"},
		},
		{
			"renamed", func(d tree) { require.NoError(d, os.Rename(d.path("a"), d.path("dir/d"))) },
			[]string{"created dir/d (5 bytes)", "deleted a"},
		},
		{
			"names that are not plain words", func(d tree) { d.write("two words", "1"); d.write("größe", "1") },
			[]string{`created größe (1 bytes)`, `created "two words" (1 bytes)`},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := newTree(t, "a", "dir/c", "dir/deep/e")
			w := newWatcher(t, os.DirFS(d.dir))
			test.edit(d)
			require.Equal(t, test.want, w.next())
			require.Empty(t, w.next(), "reported twice")
			require.Empty(t, w.reports)
		})
	}
}

// Modes and the sizes of links depend on the system. On Windows, a file is either
// read-only or not, and a link has no size.
func TestAScanTellsModesAndLinks(t *testing.T) {
	d := newTree(t, "a", "dir/c")
	w := newWatcher(t, os.DirFS(d.dir))
	before := d.stat("a").Mode()
	d.chmod("a", 0o400)
	after := d.stat("a").Mode()
	require.NotEqual(t, before, after)
	require.Equal(t, []string{fmt.Sprintf("changed a (mode %v -> %v)", before, after)}, w.next())

	d.chmod("a", 0o644)
	d.write("a", "")
	d.chmod("a", 0o400)
	d.touch("a", time.Unix(0, 0))
	require.Equal(t, []string{"changed a (5 -> 0 bytes, modified 1970-01-01T00:00:00Z)"}, w.next())
	d.chmod("a", 0o644)
	d.write("a", "123")
	require.Equal(t, []string{fmt.Sprintf("changed a (0 -> 3 bytes, mode %v -> %v, modified 2001-02-03T04:05:06.0000007Z)", after, before)}, w.next())

	// A link to a directory is not followed, and a dangling link is a file.
	require.NoError(t, os.Symlink("dir", d.path("link")))
	require.NoError(t, os.Symlink("gone", d.path("dir/link")))
	require.Equal(t, []string{
		fmt.Sprintf("created dir/link (%d bytes)", d.stat("dir/link").Size()),
		fmt.Sprintf("created link (%d bytes)", d.stat("link").Size()),
	}, w.next())
}

// A path that is not a plain word is quoted. Some of these paths cannot be made on Windows.
func TestQuote(t *testing.T) {
	for path, want := range map[string]string{
		"plain/größe": "plain/größe",
		"two words":   `"two words"`,
		"two\nlines":  `"two\nlines"`,
		`"quoted"`:    `"\"quoted\""`,
		`C:\dir`:      `"C:\\dir"`,
	} {
		require.Equal(t, want, quote(path))
	}
}

// A faultyFS has paths with faults. A directory with a fault cannot be listed. Of a file
// with a fault, only the name can be read. Modes cannot be used for this, because root
// ignores them.
type faultyFS struct {
	fs.FS
	faults map[string]error
}

func (f faultyFS) ReadDir(name string) ([]fs.DirEntry, error) {
	if err := f.faults[name]; err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	entries, err := fs.ReadDir(f.FS, name)
	for i, e := range entries {
		entries[i] = faultyEntry{e, f, path.Join(name, e.Name())}
	}
	return entries, err
}

type faultyEntry struct {
	fs.DirEntry
	fs   faultyFS
	path string
}

func (e faultyEntry) Info() (fs.FileInfo, error) {
	if err := e.fs.faults[e.path]; err != nil {
		return nil, &fs.PathError{Op: "lstat", Path: e.path, Err: err}
	}
	return e.DirEntry.Info()
}

// A path that cannot be read is reported once. The rows of it and of everything below it
// stay until it can be read again.
func TestAnUnreadablePathIsPassedOver(t *testing.T) {
	for _, test := range []struct {
		path, report  string
		during, after []string
	}{
		{
			"dir", "open dir: permission denied",
			[]string{"changed b (5 -> 0 bytes)", "deleted a", "deleted dir.txt"},
			[]string{"changed dir/sub/d (5 -> 0 bytes)", "deleted dir/c", "deleted dir/sub/e"},
		},
		{
			"dir/sub", "open dir/sub: permission denied",
			[]string{"changed b (5 -> 0 bytes)", "deleted a", "deleted dir.txt", "deleted dir/c"},
			[]string{"changed dir/sub/d (5 -> 0 bytes)", "deleted dir/sub/e"},
		},
		{
			"dir/sub/d", "lstat dir/sub/d: permission denied",
			[]string{"changed b (5 -> 0 bytes)", "deleted a", "deleted dir.txt", "deleted dir/c", "deleted dir/sub/e"},
			[]string{"changed dir/sub/d (5 -> 0 bytes)"},
		},
		{
			".", "open .: permission denied", nil,
			[]string{
				"changed b (5 -> 0 bytes)", "changed dir/sub/d (5 -> 0 bytes)",
				"deleted a", "deleted dir.txt", "deleted dir/c", "deleted dir/sub/e",
			},
		},
	} {
		t.Run(test.path, func(t *testing.T) {
			d := newTree(t, "a", "b", "dir.txt", "dir/c", "dir/sub/d", "dir/sub/e")
			root := faultyFS{os.DirFS(d.dir), map[string]error{}}
			w := newWatcher(t, root)
			for _, name := range []string{"a", "dir.txt", "dir/c", "dir/sub/e"} {
				d.remove(name)
			}
			d.write("b", "")
			d.write("dir/sub/d", "")

			root.faults[test.path] = fs.ErrPermission
			require.Equal(t, test.during, w.next())
			require.Empty(t, w.next())
			require.Equal(t, []string{test.report}, w.reports)

			delete(root.faults, test.path)
			require.Equal(t, test.after, w.next())

			root.faults[test.path] = fs.ErrPermission
			require.Empty(t, w.next())
			require.Equal(t, []string{test.report, test.report}, w.reports, "the second time that it became unreadable")
		})
	}
}

// If an unreadable directory replaces a file, the row of the file is deleted.
func TestAnUnreadableDirectoryInPlaceOfAFile(t *testing.T) {
	d := newTree(t, "a")
	root := faultyFS{os.DirFS(d.dir), map[string]error{"a": fs.ErrPermission}}
	w := newWatcher(t, root.FS)
	w.root = root
	d.remove("a")
	d.write("a/b", "1")
	require.Equal(t, []string{"deleted a"}, w.next())
	require.Equal(t, []string{"open a: permission denied"}, w.reports)
}

// If the root is no longer a directory, it is unreadable. On Linux, the path "." of such a
// root is an error. On Windows, it is a file.
func TestTheRootBecomesAFile(t *testing.T) {
	d := newTree(t, "root/a")
	w := newWatcher(t, os.DirFS(d.path("root")))
	d.remove("root")
	d.write("root", "1")
	require.Empty(t, w.next())
	require.Equal(t, []string{"stat .: not a directory"}, w.reports)

	w = newWatcher(t, os.DirFS(newTree(t, "a").dir))
	w.root = fstest.MapFS{".": {}}
	require.Empty(t, w.next())
	require.Equal(t, []string{"stat .: not a directory"}, w.reports)
}

// If a path is removed after it was listed and before it is read, that is no error, and
// its row is deleted.
func TestAFileVanishesDuringAScan(t *testing.T) {
	d := newTree(t, "a", "dir/c", "dir/e")
	root := faultyFS{os.DirFS(d.dir), map[string]error{}}
	w := newWatcher(t, root)
	root.faults["dir/c"] = fs.ErrNotExist
	require.Equal(t, []string{"deleted dir/c"}, w.next())
	root.faults["dir"] = fs.ErrNotExist
	require.Equal(t, []string{"deleted dir/e"}, w.next())
	require.Empty(t, w.reports)
}

// A scan that is interrupted deletes no rows.
func TestAnInterruptedScan(t *testing.T) {
	d := newTree(t, "a", "b")
	w := newWatcher(t, os.DirFS(d.dir))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, w.scan(ctx), context.Canceled)
	require.Equal(t, 2, w.files.Len())
	require.Empty(t, w.next())
}

// The table follows a tree with thousands of files, too.
func TestManyFiles(t *testing.T) {
	d := newTree(t)
	w := newWatcher(t, os.DirFS(d.dir))
	var created, deleted []string
	for i := range 2000 {
		name := fmt.Sprintf("dir%02d/%02d", i/100, i%100)
		require.NoError(t, os.MkdirAll(filepath.Dir(d.path(name)), 0o755))
		require.NoError(t, os.WriteFile(d.path(name), nil, 0o644))
		created = append(created, fmt.Sprintf("created %s (0 bytes)", name))
		if i/100 == 7 {
			deleted = append(deleted, "deleted "+name)
		}
	}
	require.Equal(t, created, w.next())
	require.Empty(t, w.next())
	d.remove("dir07")
	require.Equal(t, deleted, w.next())
	require.Equal(t, 1900, w.files.Len())
}

// A printer that falls behind prints how many changes it missed, in their place.
func TestShowTellsWhatWasSkipped(t *testing.T) {
	files := newScanner(nil, nil).files
	feed := files.Changes(t.Context(), changefeed.Buffer(2))
	for i := range 5 {
		_, err := files.Upsert(File{Path: fmt.Sprint("file", i)})
		require.NoError(t, err)
	}
	files.Drop()
	var out strings.Builder
	require.NoError(t, show(&out, feed))
	require.Equal(t, "skipped 3 changes\ncreated file3 (0 bytes)\ncreated file4 (0 bytes)\n", out.String())
}

// If the feed ends for another reason than a drop of the table, show returns an error.
func TestShowReturnsOtherEnds(t *testing.T) {
	cause := errors.New("a cause")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	require.ErrorIs(t, show(nil, newScanner(nil, nil).files.Changes(ctx)), cause)
}
