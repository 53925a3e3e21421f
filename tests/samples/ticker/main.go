// Ticker is a sample service that does nothing but tick, ten times a second.
package main

import "time"

var ticks uint64

//go:noinline
func tick(now time.Time) {
	ticks++
}

func main() {
	for now := range time.Tick(100 * time.Millisecond) {
		tick(now)
	}
}
