// Package archtest holds the rules of ARCHITECTURE.md and docs/style.md as
// tests. The tables in table_test.go are the data: which package may import
// which, and every exception with its reason. A test that fails here says
// where, which rule, and what to do about it.
package archtest
