//go:build !unix

package app

// connectionLimit is want: nothing is known of a bound on open files here.
func connectionLimit(want int) int { return want }
