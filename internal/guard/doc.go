// Package guard decides about an address or a request from plain values: who
// is banned, who holds too many connections, who asks too often, and what is
// never asked by a caller. It knows neither net/http nor sockets, and nothing
// a stranger sends makes it grow: every table has a fixed size and counts
// what it had to drop.
//
// # Scores and bans
//
// The caller tells what an address did with Observe. Each signal costs
// points; points are forgiven at one a minute; 10 of them are a ban.
//
//	signal               points  so a ban takes
//	junk                     10  one
//	bad_shape                10  one
//	scanner                  10  one
//	decoy                    10  one
//	flood                    10  one
//	unknown_host              6  two within 2 minutes
//	no_server_name            6  two within 2 minutes
//	malformed                 6  two within 2 minutes
//	ambiguous_path            6  two within 2 minutes
//	unknown_server_name       4  three within 2 minutes: an old name of ours may still be in use
//	tls_on_http               4  three within 2 minutes: https:// typed with the wrong port
//	http_on_tls               4  three within 2 minutes: http:// typed with the wrong port
//	slow_peer                 2  five within 2 minutes: bad lines exist
//	no_route                2.4  five within 2 minutes: people mistype, browsers try
//	forged_credentials      2.4  five within 2 minutes: a secret may be copied badly
//	missing_path            0.8  thirteen, beside two and one for each answer that found something
//	auth_failure            0.6  seventeen, in the same way
//	handshake_failed        0.5  a client that does not trust us, again and again
//	timeout                 0.5  browsers connect ahead of need
//	rate_limited           0.05  200 refused requests: callers burst
//
// Half of all attackers send a single request, so what no caller does is a
// ban at once, and what a person may do by mistake is none.
//
// The first ban lasts 10 minutes, the second an hour, further ones a day, by
// 20 % more or less and never more than the longest; 7 days after the last
// one all is forgotten. An IPv6 address counts as its /64 network. Loopback,
// private and own addresses, trusted proxies and the networks of the config
// are never banned, also when they share a /64 network with one that is. Nor
// is an address that was Authenticated lately.
//
// Five addresses of one neighbourhood (/24, /48) banned within 2 hours are a
// ban of the whole. Addresses that SetShared knows (AWS) are banned for 10
// minutes at most, and only their requests are refused. When all clients turn
// out to come with one local address, bans are switched off.
//
// What happens is told by OnEvent as it happens, by TakeTally in sums, and by
// Why for one address.
//
// # Cost
//
// Looking up a ban takes no lock, and no decision allocates. Scores live in a
// fixed table of 4-slot sets, those of neighbourhoods in another; bans in one
// of their own that nobody can be pushed out of but by a ban by hand; open
// connections in one that holds as many clients as there may be connections.
package guard
