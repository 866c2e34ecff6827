package changefeed_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Every Go block in the README is the body of an Example, with its output. So it
// compiles, and prints what it says.
func TestReadmeBlocksAreExamples(t *testing.T) {
	const file = "example_test.go"
	source, err := os.ReadFile(file)
	require.NoError(t, err)
	parsed, err := parser.ParseFile(token.NewFileSet(), file, source, parser.SkipObjectResolution)
	require.NoError(t, err)
	bodies := make(map[string]string)
	for _, decl := range parsed.Decls {
		if f, ok := decl.(*ast.FuncDecl); ok && strings.HasPrefix(f.Name.Name, "Example") {
			body := source[f.Body.Lbrace : f.Body.Rbrace-1]
			body = regexp.MustCompile(`(?m)^\t`).ReplaceAll(body, nil)
			bodies[strings.TrimSpace(string(body))] = f.Name.Name
		}
	}

	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	blocks := regexp.MustCompile("(?s)```go\n(.*?)\n```").FindAllStringSubmatch(string(readme), -1)
	require.NotEmpty(t, blocks)
	for _, block := range blocks {
		require.NotEmptyf(t, bodies[block[1]], "a block of README.md is no Example's body:\n%s", block[1])
		require.Contains(t, block[1], "\n// Output:", "an Example without an output does not run")
	}
}
