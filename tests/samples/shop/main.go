// Shop is the sample service that gets debugged: a small HTTP server whose priceOf has a struct, a
// map, a slice and a string among its locals, and which behaves as a systemd service should.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

type item struct {
	Name     string
	Quantity int
	Cents    int
}

type order struct {
	ID       int
	Customer string
	Items    []item
	Tags     map[string]string
}

func orderByID(id int) order {
	return order{
		ID:       id,
		Customer: fmt.Sprintf("customer-%d", id%7),
		Items: []item{
			{Name: "tea", Quantity: 1 + id%3, Cents: 450},
			{Name: "scone", Quantity: 2, Cents: 320},
			{Name: "jam", Quantity: id % 2, Cents: 275},
		},
		Tags: map[string]string{"channel": "web", "number": strconv.Itoa(id)},
	}
}

//go:noinline
func priceOf(o order) int {
	discounts := map[string]int{"customer-0": 10, "customer-3": 5}
	label := strings.ToUpper(o.Customer) + "/" + o.Tags["number"]
	lines := make([]int, 0, len(o.Items))
	total := 0
	for _, one := range o.Items {
		line := one.Quantity * one.Cents
		lines = append(lines, line)
		total += line
	}
	total -= total * discounts[o.Customer] / 100
	return finish(label, lines, total)
}

//go:noinline
func finish(label string, lines []int, total int) int {
	if len(lines) == 0 {
		log.Printf("%s: an empty order", label)
	}
	return total
}

//go:noinline
func tiny(n int) int {
	return n*31 + 7
}

func serveOrder(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.Atoi(r.URL.Query().Get("id"))
	if err != nil {
		http.Error(w, "id must be a number", http.StatusBadRequest)
		return
	}
	o := orderByID(id)
	answer := map[string]interface{}{"id": o.ID, "customer": o.Customer, "cents": priceOf(o)}
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		log.Printf("order %d: %v", id, err)
	}
}

// serveHot calls tiny n times, for breakpoints that are hit often.
func serveHot(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.Atoi(r.URL.Query().Get("n"))
	if err != nil {
		n = 1000
	}
	sum := 0
	for i := 0; i < n; i++ {
		sum = tiny(sum + i)
	}
	fmt.Fprintln(w, sum)
}

func notify(state string) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		log.Printf("notify: %v", err)
		return
	}
	defer c.Close()
	if _, err := c.Write([]byte(state)); err != nil {
		log.Printf("notify: %v", err)
	}
}

func pingWatchdog() {
	usec, err := strconv.Atoi(os.Getenv("WATCHDOG_USEC"))
	if err != nil || usec <= 0 {
		return
	}
	for range time.Tick(time.Duration(usec) * time.Microsecond / 2) {
		notify("WATCHDOG=1")
	}
}

// What a test of the heap looks for.
var cache map[string]*order

func remember(entries int) {
	if entries == 0 {
		return
	}
	cache = make(map[string]*order, entries)
	for i := 0; i < entries; i++ {
		cache["order-"+strconv.Itoa(i)] = &order{ID: i, Customer: strings.Repeat("x", 100)}
	}
}

type shelf struct {
	mu    sync.Mutex
	books int
}

// What a test of deadlocks looks for: two who lock in different orders, and some who wait behind them.
func tangle() {
	var first, second shelf
	var ready sync.WaitGroup
	ready.Add(2)
	go carry(&first, &second, &ready)
	go carry(&second, &first, &ready)
	ready.Wait()
	for i := 0; i < 3; i++ {
		go first.count()
	}
}

//go:noinline
func carry(from, to *shelf, ready *sync.WaitGroup) {
	from.mu.Lock()
	defer from.mu.Unlock()
	ready.Done()
	ready.Wait()
	to.mu.Lock()
	defer to.mu.Unlock()
	to.books, from.books = to.books+1, from.books-1
}

//go:noinline
func (s *shelf) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.books
}

func main() {
	address := os.Getenv("SHOP_LISTEN")
	if address == "" {
		address = "127.0.0.1:8080"
	}
	flag.StringVar(&address, "listen", address, "address to serve on")
	entries := flag.Int("cache", 0, "orders to keep in memory")
	tangled := flag.Bool("tangled", false, "begin with a deadlock")
	flag.Parse()
	if *tangled {
		tangle()
	}
	remember(*entries)

	http.HandleFunc("/order", serveOrder)
	http.HandleFunc("/hot", serveHot)
	http.HandleFunc("/crash", serveCrash)
	http.HandleFunc("/healthz", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "ok") })

	listener, err := net.Listen("tcp", address)
	if err != nil {
		log.Fatal(err)
	}
	notify("READY=1")
	go pingWatchdog()
	log.Printf("shop listens on %s", listener.Addr())
	log.Fatal(http.Serve(listener, nil))
}

// serveCrash makes another goroutine panic, which nothing recovers from.
func serveCrash(w http.ResponseWriter, r *http.Request) {
	go settle(orderByID(3), make(chan int))
	select {}
}

//go:noinline
func settle(o order, nobody chan int) {
	after := o.Items[len(o.Items)]
	nobody <- after.Cents
}
