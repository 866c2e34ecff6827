package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/scanner"
	"go/token"
	"os"
	"slices"
	"strings"
)

// A source is a file of the library.
type source struct {
	path string
	text string
	code []codeLine
}

// A codeLine is a line that holds more than a comment.
type codeLine struct {
	number int    // from 0
	text   string // in the normal form, without comments
}

func readSource(path string) (*source, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	s := &source{path: path, text: string(text)}
	for i, line := range strings.Split(withoutComments(text), "\n") {
		if line = normal(line); line != "" {
			s.code = append(s.code, codeLine{i, line})
		}
	}
	return s, nil
}

// withoutComments returns text with spaces in place of its comments.
func withoutComments(text []byte) string {
	text = slices.Clone(text)
	file := token.NewFileSet().AddFile("", -1, len(text))
	var s scanner.Scanner
	s.Init(file, slices.Clone(text), nil, scanner.ScanComments)
	for {
		pos, tok, literal := s.Scan()
		switch tok {
		case token.EOF:
			return string(text)
		case token.COMMENT:
			from := file.Offset(pos)
			for i, b := range text[from : from+len(literal)] {
				if b != '\n' {
					text[from+i] = ' '
				}
			}
		}
	}
}

// find returns the indexes in s.code at which lines begin.
func (s *source) find(lines []string) (at []int) {
	for i := range len(s.code) - len(lines) + 1 {
		if slices.EqualFunc(s.code[i:i+len(lines)], lines, func(c codeLine, line string) bool { return c.text == line }) {
			at = append(at, i)
		}
	}
	return at
}

// A site is the place in the library where a mutant belongs.
type site struct {
	mutant *mutant
	source *source
	at     int // index in source.code
}

// locate finds the one place where a mutant belongs.
func locate(m *mutant, sources []*source) (site, error) {
	var found []site
	for _, s := range sources {
		for _, at := range s.find(m.lines(' ', '-')) {
			found = append(found, site{m, s, at})
		}
	}
	switch len(found) {
	case 0:
		return site{}, fmt.Errorf("line %d: %q is stale: its lines are nowhere in the code", m.line, m.name)
	case 1:
		return found[0], nil
	}
	return site{}, fmt.Errorf("line %d: %q is stale: its lines are in %d places of the code", m.line, m.name, len(found))
}

// mutated returns the text of the source with the mutant applied.
func (s site) mutated() string {
	lines := strings.SplitAfter(s.source.text, "\n")
	next := s.at
	insert := s.source.code[next].number // a line before which a '+' goes
	added := map[int]string{}
	for _, line := range s.mutant.hunk {
		if line[0] == '+' {
			added[insert] += line[1:] + "\n"
			continue
		}
		number := s.source.code[next].number
		if line[0] == '-' {
			lines[number] = ""
		}
		next++
		insert = number + 1
	}
	var text strings.Builder
	for i, line := range lines {
		text.WriteString(added[i])
		text.WriteString(line)
	}
	return text.String()
}

// functions returns the mutant's function as it is, and with the mutant applied.
func (s site) functions() (old, new function, err error) {
	first := s.source.code[s.at].number
	last := s.source.code[s.at+len(s.mutant.lines(' ', '-'))-1].number
	olds, err := parseFunctions(s.source.text)
	if err != nil {
		return old, new, err
	}
	news, err := parseFunctions(s.mutated())
	if err != nil {
		return old, new, fmt.Errorf("line %d: %q does not parse: %w", s.mutant.line, s.mutant.name, err)
	}
	i := slices.IndexFunc(olds, func(f function) bool { return f.first <= first && last <= f.last })
	if i < 0 || len(olds) != len(news) || olds[i].signature() != news[i].signature() {
		return old, new, fmt.Errorf("line %d: %q is not about the body of one function", s.mutant.line, s.mutant.name)
	}
	return olds[i], news[i], nil
}

// A function is a function or method in the text of a file.
type function struct {
	decl        *ast.FuncDecl
	text        string // of the file
	first, last int    // lines, from 0
	file        *token.File
}

func parseFunctions(text string) (functions []function, err error) {
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, "", text, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	file := fset.File(f.Pos())
	for _, decl := range f.Decls {
		if d, ok := decl.(*ast.FuncDecl); ok && d.Body != nil {
			functions = append(functions, function{d, text, file.Line(d.Pos()) - 1, file.Line(d.End()) - 1, file})
		}
	}
	return functions, nil
}

func (f function) slice(from, to token.Pos) string {
	return f.text[f.file.Offset(from):f.file.Offset(to)]
}

func (f function) signature() string { return normal(f.slice(f.decl.Pos(), f.decl.Body.Lbrace)) }

// renamed returns the text of the function under another name.
func (f function) renamed(name string) string {
	d := f.decl
	return f.slice(d.Pos(), d.Name.Pos()) + name + f.slice(d.Name.End(), d.End())
}

// call returns the statements that call a function with the same signature under
// another name, and return what it returns.
func (f function) call(name string) (string, error) {
	d := f.decl
	if d.Recv != nil {
		if len(d.Recv.List[0].Names) == 0 {
			return "", fmt.Errorf("the receiver of %s has no name", d.Name.Name)
		}
		name = d.Recv.List[0].Names[0].Name + "." + name
	}
	if d.Type.TypeParams != nil {
		name += "[" + strings.Join(fieldNames(d.Type.TypeParams), ", ") + "]"
	}
	args := fieldNames(d.Type.Params)
	if len(args) < d.Type.Params.NumFields() || slices.Contains(args, "_") {
		return "", fmt.Errorf("a parameter of %s has no name", d.Name.Name)
	}
	call := name + "(" + strings.Join(args, ", ") + ")"
	if n := len(d.Type.Params.List); n > 0 {
		if _, isVariadic := d.Type.Params.List[n-1].Type.(*ast.Ellipsis); isVariadic {
			call = strings.TrimSuffix(call, ")") + "...)"
		}
	}
	if d.Type.Results.NumFields() > 0 {
		return "return " + call, nil
	}
	return call + "; return", nil
}

func fieldNames(fields *ast.FieldList) (names []string) {
	for _, field := range fields.List {
		for _, name := range field.Names {
			names = append(names, name.Name)
		}
	}
	return names
}
