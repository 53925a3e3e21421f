// Steady is a service that notices everything: it checks the result of every system call it makes,
// the length of every sleep, and counts its signals, while eight goroutines run through one line
// without pause. What it has noticed it writes to the file it is given, ten times a second.
//
//	steady FILE MEGABYTES [quiet]
//
// When it is quiet, no child of its own interrupts a system call by its end.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
)

type item struct {
	Name string
	N    int64
}

var (
	ticks, wrong, interrupted, signals, children, late atomic.Int64

	answer  = 42
	ballast []byte
	lastBad atomic.Value
)

func bad(format string, arguments ...any) {
	wrong.Add(1)
	lastBad.Store(fmt.Sprintf(format, arguments...))
}

//go:noinline
func tick(n int64, who string) int64 {
	one := item{Name: who, N: n}
	count()
	return one.N + int64(len(one.Name))
}

// Not within tick, whose first line would be one of sync/atomic's on some processors.
//
//go:noinline
func count() { ticks.Add(1) }

func run(who string) {
	for n := int64(0); ; n++ {
		if tick(n, who) != n+int64(len(who)) {
			bad("tick gave a wrong sum")
		}
		if n%1000 == 0 {
			// Leaves the other goroutines some of the processor.
			time.Sleep(time.Millisecond)
		}
	}
}

// sleeps makes raw sleeps, which must last and must not be interrupted.
func sleeps() {
	for {
		begun := time.Now()
		wanted := syscall.Timespec{Nsec: 3_000_000}
		var left syscall.Timespec
		if err := syscall.Nanosleep(&wanted, &left); err == syscall.EINTR {
			interrupted.Add(1)
		} else if err != nil {
			bad("nanosleep: %v", err)
		} else if time.Since(begun) < 3*time.Millisecond {
			bad("a sleep was too short: %v", time.Since(begun))
		} else if time.Since(begun) > time.Second {
			late.Add(1)
		}
	}
}

// pipes reads raw what another goroutine writes, byte for byte.
func pipes() {
	var ends [2]int
	if err := syscall.Pipe(ends[:]); err != nil {
		panic(err)
	}
	go func() {
		for n := byte(0); ; n++ {
			if count, err := syscall.Write(ends[1], []byte{n}); err == syscall.EINTR {
				interrupted.Add(1)
				n--
			} else if count != 1 || err != nil {
				bad("write: %d %v", count, err)
			}
			time.Sleep(time.Millisecond)
		}
	}()
	buffer := []byte{0}
	for n := byte(0); ; n++ {
		if count, err := syscall.Read(ends[0], buffer); err == syscall.EINTR {
			interrupted.Add(1)
			n--
		} else if count != 1 || err != nil || buffer[0] != n {
			bad("read: %d %v, %d instead of %d", count, err, buffer[0], n)
		}
	}
}

// echoes sends text through TCP and checks what comes back.
func echoes() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	go func() {
		connection, err := listener.Accept()
		if err != nil {
			bad("accept: %v", err)
			return
		}
		io.Copy(connection, connection)
	}()
	connection, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		panic(err)
	}
	buffer := make([]byte, 64)
	for n := 0; ; n++ {
		text := fmt.Sprintf("message %d", n)
		if _, err := connection.Write([]byte(text)); err != nil {
			bad("send: %v", err)
			return
		}
		count, err := io.ReadFull(connection, buffer[:len(text)])
		if err != nil || string(buffer[:count]) != text {
			bad("echo: %q for %q, %v", buffer[:count], text, err)
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// programs runs other programs, which share its memory between fork and exec.
func programs() {
	for {
		if output, err := exec.Command("/bin/echo", "hello").Output(); err != nil || string(output) != "hello\n" {
			bad("echo: %q %v", output, err)
		}
		children.Add(1)
		time.Sleep(20 * time.Millisecond)
	}
}

// counts tells of every signal at once, so that a sender can wait for it.
func counts(received chan os.Signal) {
	for range received {
		signals.Add(1)
		os.Stdout.Write([]byte{'.'})
	}
}

func main() {
	megabytes, _ := strconv.Atoi(os.Args[2])
	ballast = make([]byte, megabytes<<20)
	for at := 0; at < len(ballast); at += 4096 {
		ballast[at] = byte(at>>12) | 1
	}
	lastBad.Store("")
	for n := range 8 {
		go run(fmt.Sprintf("runner-%d", n))
	}
	received := make(chan os.Signal, 100)
	signal.Notify(received, syscall.SIGUSR1, syscall.SIGUSR2)
	go counts(received)
	for _, work := range []func(){sleeps, pipes, echoes} {
		go work()
	}
	if len(os.Args) < 4 {
		go programs()
	}
	for {
		noticed, _ := json.Marshal(map[string]any{
			"ticks": ticks.Load(), "wrong": wrong.Load(), "interrupted": interrupted.Load(),
			"signals": signals.Load(), "children": children.Load(), "late": late.Load(),
			"last": lastBad.Load(), "answer": answer,
		})
		if err := os.WriteFile(os.Args[1]+".new", noticed, 0o644); err != nil {
			panic(err)
		}
		if err := os.Rename(os.Args[1]+".new", os.Args[1]); err != nil {
			panic(err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}
