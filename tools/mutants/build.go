package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// variable is the environment variable that selects a mutant by its number, from 1.
const variable = "CHANGEFEED_MUTANT"

// A library is a package and its mutants.
type library struct {
	dir     string // absolute
	name    string
	sources []*source
	sites   []site // the mutant numbered i is at sites[i-1]
}

// openLibrary reads the package in a directory and finds where each mutant belongs.
func openLibrary(dir string, mutants []*mutant) (*library, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	out, err := command(dir, "go", "list", "-f", `{{.Name}}{{range .GoFiles}}{{"\n"}}{{.}}{{end}}`, ".").Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", withStderr(err))
	}
	names := strings.Split(strings.TrimSpace(string(out)), "\n")
	lib := &library{dir: dir, name: names[0]}
	for _, name := range names[1:] {
		s, err := readSource(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		lib.sources = append(lib.sources, s)
	}
	var errs []error
	for _, m := range mutants {
		s, err := locate(m, lib.sources)
		errs = append(errs, err)
		lib.sites = append(lib.sites, s)
	}
	return lib, errors.Join(errs...)
}

// writeOverlay writes the sources with all mutants in them into a directory, and
// returns the path of the overlay file that puts them in the place of the library's.
//
// A function that has mutants is written once more for each of them, under another
// name. In its first statement the function itself calls the one of the mutant that
// is selected.
func (lib *library) writeOverlay(dir string) (string, error) {
	selector := filepath.Join(lib.dir, "mutant_selected.go")
	overlay := map[string]string{selector: filepath.Join(dir, "mutant_selected.go")}
	text := fmt.Sprintf("package %s\n\nimport (\n\t\"os\"\n\t\"strconv\"\n)\n\nvar mutantSelected, _ = strconv.Atoi(os.Getenv(%q))\n", lib.name, variable)
	if err := os.WriteFile(overlay[selector], []byte(text), 0o666); err != nil {
		return "", err
	}
	for _, s := range lib.sources {
		text, err := lib.withMutants(s)
		if err != nil {
			return "", err
		}
		if text != s.text {
			overlay[s.path] = filepath.Join(dir, filepath.Base(s.path))
			if err := os.WriteFile(overlay[s.path], []byte(text), 0o666); err != nil {
				return "", err
			}
		}
	}
	file := filepath.Join(dir, "overlay.json")
	data, err := json.Marshal(map[string]any{"Replace": overlay})
	if err != nil {
		return "", err
	}
	return file, os.WriteFile(file, data, 0o666)
}

// withMutants returns the text of a source with all its mutants in it.
func (lib *library) withMutants(s *source) (string, error) {
	cases := map[int]string{} // by the offset at which a function's body begins
	var variants strings.Builder
	var errs []error
	for i, site := range lib.sites {
		if site.source != s {
			continue
		}
		old, mutated, err := site.functions()
		if err != nil {
			errs = append(errs, err)
			continue
		}
		name := fmt.Sprintf("%sMutant%d", old.decl.Name.Name, i+1)
		call, err := old.call(name)
		if err != nil {
			errs = append(errs, fmt.Errorf("line %d: %q: %w", site.mutant.line, site.mutant.name, err))
			continue
		}
		begin := old.file.Offset(old.decl.Body.Lbrace) + 1
		cases[begin] += fmt.Sprintf(" case %d: %s;", i+1, call)
		// The compiler's messages then name the mutant, and a line of its function.
		fmt.Fprintf(&variants, "\n//line %s:1\n%s\n", strings.ReplaceAll(site.mutant.name, ":", ""), mutated.renamed(name))
	}
	text := s.text
	offsets := make([]int, 0, len(cases))
	for offset := range cases {
		offsets = append(offsets, offset)
	}
	slices.Sort(offsets)
	for _, offset := range slices.Backward(offsets) {
		text = text[:offset] + " switch mutantSelected {" + cases[offset] + " };" + text[offset:]
	}
	return text + variants.String(), errors.Join(errs...)
}

// build compiles the library with all its mutants, and then its tests with them. It
// returns the path of the test binary. Without tests it only compiles the library,
// which takes a few seconds, and returns "".
func (lib *library) build(dir string, tests bool) (string, error) {
	overlay, err := lib.writeOverlay(dir)
	if err != nil {
		return "", err
	}
	out, err := command(lib.dir, "go", "build", "-overlay", overlay, "-gcflags=-e", ".").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("some mutants do not compile: %w\n%s", err, out)
	}
	if !tests {
		return "", nil
	}
	binary := filepath.Join(dir, "mutants.exe") // Windows needs the extension
	out, err = command(lib.dir, "go", "test", "-c", "-vet=off", "-overlay", overlay, "-o", binary, ".").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("the tests do not compile: %w\n%s", err, out)
	}
	return binary, nil
}

func command(dir, name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	return cmd
}

// withStderr returns err with what the command printed.
func withStderr(err error) error {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && len(exit.Stderr) > 0 {
		return fmt.Errorf("%w\n%s", err, exit.Stderr)
	}
	return err
}
