// Package browsertest tests the pages of this project in a browser: the script of the package web,
// the inspector, and the dashboard of the examples. It has only tests, in a module of its own, so
// that nobody else needs the module that drives the browser.
//
//	go test ./...
//
// The tests need Chromium or Chrome. The environment variable BROWSERTEST_SCREENSHOTS names a folder
// for the screenshots that they take.
package browsertest
