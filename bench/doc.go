// Command bench compares postern with nginx, HAProxy and Caddy: the same work
// for each, side by side on this machine, measured as CPU time of the proxy's
// processes per unit of work. README.md says how to run and how to read it.
//
// It consists of processes, so that nobody's CPU time counts as another's:
//
//	driver    starts the others, takes turns, reads /proc, writes the results
//	backend   a raw HTTP/1.1 server that costs next to nothing
//	proxy     postern or a peer, as many processes as it likes
//	load      one for each measurement; does a fixed number of units
//
// Backend and load are this same binary with POSTERN_BENCH_ROLE set. They end
// when their standard input does, so that they cannot outlive the driver.
package main
