// Storm is the busiest target that a tear-down can meet: eight goroutines that run into the same
// line without pause. It writes how often to the file it is given, so that a test sees it live.
package main

import (
	"os"
	"strconv"
	"sync/atomic"
	"time"
)

var count atomic.Int64

//go:noinline
func tick(n int64) {
	count.Add(1)
}

func main() {
	for range 8 {
		go func() {
			for n := int64(0); ; n++ {
				tick(n)
			}
		}()
	}
	for {
		if err := os.WriteFile(os.Args[1], []byte(strconv.FormatInt(count.Load(), 10)), 0o644); err != nil {
			panic(err)
		}
		if _, err := os.Stat(os.Args[1] + ".exit"); err == nil {
			os.Exit(0)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
