package changefeed

import (
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"iter"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// checked returns the package without its tests, as the type checker sees it.
func checked(t *testing.T) (fset *token.FileSet, files []*ast.File, info *types.Info, pkg *types.Package) {
	goList := func(args ...string) iter.Seq[string] {
		out, err := exec.CommandContext(t.Context(), "go", append([]string{"list"}, args...)...).Output()
		require.NoError(t, err)
		return strings.FieldsSeq(string(out))
	}
	exports := make(map[string]string)
	for pair := range goList("-export", "-deps", "-f", "{{.ImportPath}}={{.Export}}", ".") {
		path, file, _ := strings.Cut(pair, "=")
		exports[path] = file
	}
	lookup := func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) }

	fset = token.NewFileSet()
	for name := range goList("-f", `{{join .GoFiles " "}}`, ".") {
		file, err := parser.ParseFile(fset, name, nil, 0)
		require.NoError(t, err)
		files = append(files, file)
	}
	info = &types.Info{Uses: make(map[*ast.Ident]types.Object), Instances: make(map[*ast.Ident]types.Instance)}
	conf := types.Config{Importer: importer.ForCompiler(fset, "gc", lookup)}
	pkg, err := conf.Check("changefeed", fset, files, info)
	require.NoError(t, err)
	return fset, files, info, pkg
}

// fileUses returns, for each file of the package, the files that declare the names that
// it uses, with one such name for each.
func fileUses(t *testing.T) map[string]map[string]string {
	fset, files, info, pkg := checked(t)
	uses := make(map[string]map[string]string)
	for _, file := range files {
		uses[fset.Position(file.Pos()).Filename] = make(map[string]string)
	}
	for id, obj := range info.Uses {
		if obj.Pkg() != pkg {
			continue
		}
		from, to := fset.Position(id.Pos()).Filename, fset.Position(obj.Pos()).Filename
		if from != to {
			uses[from][to] = id.Name
		}
	}
	return uses
}

// mayUse says which files a file may use names of. A line that is not needed any more
// fails, too, so that the table shows the package as it is. ARCHITECTURE.md draws it.
var mayUse = map[string]string{
	// These know nothing of the others.
	"doc.go":        "",
	"errors.go":     "",
	"query.go":      "",
	"ringbuffer.go": "",
	"row.go":        "",
	"debug_off.go":  "changefeed.go commits.go index.go query.go table.go",

	// What users see of a change, and what they ask for.
	"changefeed.go": "errors.go row.go",
	"option.go":     "errors.go info.go position.go track.go",
	"log.go":        "changefeed.go errors.go feed.go info.go position.go",

	// Where rows and changes are kept. They know no table.
	"cell.go":     "debug_off.go scope.go",
	"hash.go":     "cell.go debug_off.go domain.go tree.go",
	"tree.go":     "cell.go",
	"snapshot.go": "cell.go domain.go",
	"scan.go":     "cell.go snapshot.go transaction.go",
	"backlog.go":  "changefeed.go ringbuffer.go",
	"squash.go":   "changefeed.go option.go ringbuffer.go tree.go",
	"scope.go":    "cascade.go changefeed.go commits.go ringbuffer.go squash.go",
	"interval.go": "changefeed.go scope.go",

	// The table, its parts, and its writes.
	"position.go":    "commits.go domain.go errors.go table.go",
	"table.go":       "cascade.go cell.go changefeed.go commits.go debug_off.go domain.go feed.go hash.go index.go interval.go option.go position.go query.go ringbuffer.go row.go scope.go selection.go snapshot.go squash.go transaction.go tree.go view.go write.go",
	"write.go":       "cascade.go cell.go changefeed.go commits.go debug_off.go domain.go errors.go hash.go index.go interval.go position.go scope.go snapshot.go table.go transaction.go tree.go",
	"transaction.go": "cascade.go cell.go changefeed.go commits.go domain.go errors.go feed.go hash.go index.go info.go position.go read.go restore.go scan.go scope.go selection.go snapshot.go table.go write.go",
	"read.go":        "cell.go domain.go index.go position.go snapshot.go table.go transaction.go tree.go",
	"selection.go":   "batch.go cell.go changefeed.go debug_off.go domain.go feed.go interval.go option.go position.go query.go read.go scan.go scope.go snapshot.go table.go transaction.go tree.go write.go",
	"index.go":       "cell.go debug_off.go domain.go errors.go interval.go read.go scan.go scope.go selection.go table.go transaction.go tree.go view.go",

	"info.go":       "changefeed.go commits.go domain.go feed.go index.go interval.go option.go position.go ringbuffer.go scope.go selection.go table.go transaction.go view.go",
	"inspection.go": "domain.go errors.go index.go interval.go scan.go selection.go table.go transaction.go",

	"apply.go": "cell.go changefeed.go debug_off.go errors.go position.go table.go transaction.go write.go",

	"restore.go": "cascade.go cell.go changefeed.go commits.go debug_off.go domain.go errors.go feed.go hash.go index.go position.go ringbuffer.go scope.go selection.go squash.go table.go transaction.go tree.go write.go",

	// Views, and the writes that reach them.
	"domain.go":  "debug_off.go transaction.go",
	"cascade.go": "cell.go changefeed.go debug_off.go errors.go index.go ringbuffer.go scope.go table.go transaction.go view.go write.go",
	"view.go":    "cell.go changefeed.go commits.go domain.go feed.go hash.go index.go info.go option.go position.go query.go selection.go table.go transaction.go tree.go",
	"select.go":  "cascade.go errors.go selection.go table.go transaction.go view.go",
	"group.go":   "cascade.go cell.go table.go transaction.go view.go write.go",
	"join.go":    "cascade.go cell.go domain.go index.go selection.go table.go transaction.go view.go write.go",
	"top.go":     "cascade.go cell.go debug_off.go domain.go index.go interval.go read.go scan.go scope.go table.go transaction.go tree.go view.go write.go",
	"ranked.go":  "changefeed.go errors.go index.go option.go query.go table.go top.go view.go",

	// The loop's side.
	"commits.go": "changefeed.go debug_off.go domain.go errors.go feed.go info.go option.go position.go query.go ringbuffer.go scan.go scope.go selection.go snapshot.go table.go track.go transaction.go",
	"track.go":   "backlog.go changefeed.go errors.go feed.go option.go position.go squash.go table.go",
	"feed.go":    "backlog.go changefeed.go commits.go domain.go errors.go info.go option.go position.go ringbuffer.go scan.go scope.go selection.go snapshot.go squash.go table.go track.go tree.go",
	"batch.go":   "changefeed.go feed.go query.go scope.go track.go",
}

// Each file uses the names of exactly those files that the table allows.
func TestLayers(t *testing.T) {
	uses := fileUses(t)
	require.ElementsMatch(t, slices.Collect(maps.Keys(mayUse)), slices.Collect(maps.Keys(uses)), "files")
	for file, names := range uses {
		allowed := strings.Fields(mayUse[file])
		for other, name := range names {
			require.Contains(t, allowed, other, "%s uses %s of %s", file, name, other)
		}
		for _, other := range allowed {
			require.Contains(t, names, other, "%s need not be allowed for %s any more", other, file)
		}
	}
}

// No generic struct embeds a table or a selection. The compiler would make all of their methods again for each type of
// rows (BenchmarkCompile).
func TestNoGenericStructEmbedsATable(t *testing.T) {
	_, _, _, pkg := checked(t)
	structs := 0
	for _, name := range pkg.Scope().Names() {
		named, ok := pkg.Scope().Lookup(name).Type().(*types.Named)
		if !ok || named.TypeParams().Len() == 0 {
			continue
		}
		fields, ok := named.Underlying().(*types.Struct)
		if !ok {
			continue
		}
		structs++
		for field := range fields.Fields() {
			require.False(t, field.Embedded() && (field.Name() == "Table" || field.Name() == "Selection"), "%s embeds %s", name, field.Name())
		}
	}
	require.Greater(t, structs, 20)
}

// The rows of each table are a type parameter, and no generic type, such as Grouped[G, A]. The compiler would make all
// code for these rows twice: once for Grouped[G, A] in the library, and once for Grouped[string, int] in a program.
func TestTheRowsOfATableAreATypeParameter(t *testing.T) {
	fset, _, info, _ := checked(t)
	instances := 0
	for id, instance := range info.Instances {
		if !slices.Contains([]string{"Table", "NewTable", "NewTableFunc", "newTable", "newViewTable", "View"}, id.Name) {
			continue
		}
		instances++
		for arg := range instance.TypeArgs.Types() {
			named, ok := arg.(*types.Named)
			require.False(t, ok && named.TypeArgs().Len() > 0, "%s: %s of %s", fset.Position(id.Pos()), id.Name, arg)
		}
	}
	require.Greater(t, instances, 100)
}
