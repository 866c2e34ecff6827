// Package sqlitetest compares views with SQL queries. A test makes the same random writes to two tables
// and to a database of SQLite in memory. After each step, every view must have the rows that SQLite
// returns for the equivalent query. The package has only tests. It is a module of its own, so that the
// library does not depend on SQLite.
//
//	go test ./...
//
// CHANGEFEED_SEED=n in the environment replays a run. With -short, the test makes a tenth of the steps.
package sqlitetest
