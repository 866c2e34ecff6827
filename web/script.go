package web

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"fmt"
	"net/http"
	"time"
)

//go:embed changefeed.js
var script []byte

// Script returns a handler that serves the client for browsers: a JavaScript module without
// dependencies, whose first lines say how to use it.
func Script() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/javascript; charset=utf-8")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("ETag", scriptTag)
		w.Header().Set("Cache-Control", "no-cache")
		http.ServeContent(w, r, "changefeed.js", time.Time{}, bytes.NewReader(script))
	})
}

var scriptTag = func() string {
	sum := sha256.Sum256(script)
	return fmt.Sprintf(`"%x"`, sum[:8])
}()
