package main

import (
	"errors"
	"fmt"
	"strings"
)

// A mutant is one deliberate fault: a few lines of the library, and the lines that
// replace them.
type mutant struct {
	name       string
	line       int      // of the name, in the list
	equivalent string   // why no test can notice it; "": a test can
	hunk       []string // each line begins with ' ', '-' or '+'
}

// parse reads a list of mutants. The package comment describes the format. If
// several mutants are malformed, the error names all of them.
func parse(text string) (mutants []*mutant, err error) {
	var errs []error
	names := map[string]bool{}
	add := func(m *mutant) {
		switch {
		case m.name == "" && m.hunk == nil && m.equivalent == "":
			return // only comments
		case m.name == "":
			errs = append(errs, fmt.Errorf("line %d: a mutant without a name", m.line))
		case names[m.name]:
			errs = append(errs, fmt.Errorf("line %d: a second mutant named %q", m.line, m.name))
		case !m.changes():
			errs = append(errs, fmt.Errorf("line %d: %q changes nothing", m.line, m.name))
		case len(m.lines('+')) == len(m.hunk):
			errs = append(errs, fmt.Errorf("line %d: %q has no line to look for", m.line, m.name))
		}
		names[m.name] = true
		mutants = append(mutants, m)
	}
	m := new(mutant)
	for i, line := range strings.Split(text, "\n") {
		if strings.TrimSpace(line) == "" {
			add(m)
			m = new(mutant)
			continue
		}
		if m.line == 0 {
			m.line = i + 1
		}
		reason, isMark := strings.CutPrefix(line, "# equivalent: ")
		switch {
		case isMark:
			m.equivalent = reason
		case line[0] == '#':
		case strings.ContainsRune("-+ \t", rune(line[0])):
			if line[0] == '\t' {
				line = " " + line // an editor, or a hand, left out the space of a context line
			}
			m.hunk = append(m.hunk, line)
		case m.name != "" || m.hunk != nil:
			errs = append(errs, fmt.Errorf("line %d: %q is neither a line of a hunk nor the first line of a mutant", i+1, line))
		default:
			m.name, m.line = line, i+1
		}
	}
	add(m)
	return mutants, errors.Join(errs...)
}

// lines returns the normal form of the hunk's lines that begin with one of the signs.
func (m *mutant) lines(signs ...byte) (lines []string) {
	for _, line := range m.hunk {
		if strings.IndexByte(string(signs), line[0]) >= 0 {
			lines = append(lines, normal(line[1:]))
		}
	}
	return lines
}

func (m *mutant) changes() bool {
	return strings.Join(m.lines(' ', '-'), "\n") != strings.Join(m.lines(' ', '+'), "\n")
}

// normal returns a line in the form in which lines are compared: without indentation,
// and with one space where there are several.
func normal(line string) string { return strings.Join(strings.Fields(line), " ") }
