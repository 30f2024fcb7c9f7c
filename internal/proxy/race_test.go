//go:build race

package proxy

// underRace: everything takes many times as long.
const underRace = true
