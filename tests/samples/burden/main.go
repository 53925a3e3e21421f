// Burden is a sample service of a chosen size that notices what is done to it: it checks each system
// call's result, counts its signals, looks at its timers, and knows for how long it stood still.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

type counts struct {
	Turns   uint64 `json:"turns"`
	Calls   uint64 `json:"calls"`
	Timers  uint64 `json:"timers"`
	Signals uint64 `json:"signals"`
	// Signals that were sent and not heard of within ten seconds.
	Lost  uint64   `json:"lost"`
	Wrong []string `json:"wrong"`
	// The longest time between two looks at the clock, since it was last asked for.
	StoodMS float64 `json:"stood_ms"`
}

var (
	turns, calls, timers, signals, lost uint64
	stood                               int64
	mutex                               sync.Mutex
	wrong                               []string
	held                                []byte
)

func isWrong(what string, arguments ...interface{}) {
	mutex.Lock()
	defer mutex.Unlock()
	if len(wrong) < 100 {
		wrong = append(wrong, fmt.Sprintf(what, arguments...))
	}
}

//go:noinline
func turn(n uint64) uint64 {
	atomic.AddUint64(&turns, 1)
	return n*31 + 7
}

// Calls turn some ten thousand times a second.
func spin() {
	for n := uint64(0); ; {
		for range make([]struct{}, 20) {
			n = turn(n)
		}
		time.Sleep(time.Millisecond)
	}
}

// A pipe whose ends block, unlike those that Go makes.
func pipe() [2]int {
	var ends [2]int
	if err := syscall.Pipe(ends[:]); err != nil {
		log.Fatal(err)
	}
	return ends
}

// A thread that is in the kernel, and must never be sent out of it.
func wait() {
	runtime.LockOSThread()
	ends := pipe()
	one := make([]byte, 1)
	n, err := syscall.Read(ends[0], one)
	isWrong("a read that nothing was to end has ended: %d, %v", n, err)
}

// One byte after the other through a pipe, by calls that Go does not repeat.
func echo() {
	runtime.LockOSThread()
	ends := pipe()
	to, from := []byte{0}, []byte{0}
	for n := byte(0); ; n++ {
		to[0] = n
		if count, err := syscall.Write(ends[1], to); count != 1 || err != nil {
			isWrong("write: %d, %v", count, err)
		}
		if count, err := syscall.Read(ends[0], from); count != 1 || err != nil || from[0] != n {
			isWrong("read: %d, %v, %d for %d", count, err, from[0], n)
		}
		atomic.AddUint64(&calls, 2)
		if n%16 == 0 {
			time.Sleep(time.Millisecond)
		}
	}
}

// Sleeps in the kernel, and looks at the clock: a signal handler of its own would end the sleep early, so
// Go must not preempt by signals here (GODEBUG=asyncpreemptoff=1).
func sleep() {
	runtime.LockOSThread()
	moment := syscall.Timespec{Nsec: 500 * 1000}
	for before := time.Now(); ; {
		if err := syscall.Nanosleep(&moment, nil); err != nil {
			isWrong("nanosleep: %v", err)
		}
		now := time.Now()
		gap := int64(now.Sub(before))
		before = now
		atomic.AddUint64(&calls, 1)
		for longest := atomic.LoadInt64(&stood); gap > longest; longest = atomic.LoadInt64(&stood) {
			atomic.CompareAndSwapInt64(&stood, longest, gap)
		}
	}
}

func ring() {
	const due = 5 * time.Millisecond
	for {
		begun := time.Now()
		<-time.NewTimer(due).C
		if took := time.Since(begun); took < due || took > 10*time.Second {
			isWrong("a timer of %v took %v", due, took)
		}
		atomic.AddUint64(&timers, 1)
	}
}

// Sends itself one signal after the other; each must have been heard before the next.
func signalSelf() {
	heard := make(chan os.Signal, 1)
	signal.Notify(heard, syscall.SIGUSR1)
	for {
		if err := syscall.Kill(os.Getpid(), syscall.SIGUSR1); err != nil {
			isWrong("kill: %v", err)
		}
		select {
		case <-heard:
			atomic.AddUint64(&signals, 1)
			time.Sleep(200 * time.Microsecond)
		case <-time.After(10 * time.Second):
			atomic.AddUint64(&lost, 1)
		}
	}
}

func answer(w http.ResponseWriter, _ *http.Request) {
	mutex.Lock()
	defer mutex.Unlock()
	_ = json.NewEncoder(w).Encode(counts{
		Turns:   atomic.LoadUint64(&turns),
		Calls:   atomic.LoadUint64(&calls),
		Timers:  atomic.LoadUint64(&timers),
		Signals: atomic.LoadUint64(&signals),
		Lost:    atomic.LoadUint64(&lost),
		Wrong:   wrong,
		StoodMS: float64(atomic.SwapInt64(&stood, 0)) / 1e6,
	})
}

func main() {
	listen := flag.String("listen", "127.0.0.1:8099", "where counts are asked for")
	resident := flag.Int("resident", 0, "megabytes to hold")
	huge := flag.Bool("huge", false, "hold them in huge pages")
	threads := flag.Int("threads", 0, "threads that wait in the kernel")
	signalled := flag.Bool("signals", false, "send itself signals, instead of watching the clock")
	flag.Parse()
	if *resident > 0 {
		memory, err := syscall.Mmap(-1, 0, *resident<<20, syscall.PROT_READ|syscall.PROT_WRITE,
			syscall.MAP_PRIVATE|syscall.MAP_ANON)
		if err != nil {
			log.Fatal(err)
		}
		advice := 15 // MADV_NOHUGEPAGE
		if *huge {
			advice = 14 // MADV_HUGEPAGE
		}
		if err := syscall.Madvise(memory, advice); err != nil {
			log.Fatal(err)
		}
		for at := range memory {
			memory[at] = byte(at) | 1
		}
		held = memory
	}
	for range make([]struct{}, *threads) {
		go wait()
	}
	if *signalled {
		go signalSelf()
	} else {
		go sleep()
	}
	go echo()
	go ring()
	go spin()
	http.HandleFunc("/counts", answer)
	log.Fatal(http.ListenAndServe(*listen, nil))
}
