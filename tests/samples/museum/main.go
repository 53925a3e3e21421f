// Museum is a sample service that does nothing, and holds one value of every kind that a debugger shows.
package main

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

type colour int

const (
	red colour = iota + 1
	green
)

type point struct{ X, Y int }

func (p point) String() string { return fmt.Sprint(p.X, "/", p.Y) }

type shape interface{ Area() float64 }

type square struct{ Side float64 }

func (s square) Area() float64 { return s.Side * s.Side }

type circle struct{ Radius float64 }

func (c *circle) Area() float64 { return c.Radius * c.Radius * 3 }

type pair[K comparable, V any] struct {
	Key   K
	Value V
}

type list[T any] struct {
	Head T
	Tail *list[T]
}

type embedded struct {
	point
	*square
	name string
}

type tree struct {
	Left, Right *tree
	Value       int
}

type failure struct {
	Code int
	Why  error
}

func (f failure) Error() string { return f.Why.Error() }

var (
	packageCount  = 42
	packageMap    = map[string][]int{"one": {1}, "three": {1, 2, 3}}
	packageMutex  sync.Mutex
	packageShape  shape = square{2}
	packageNobody *point
)

//go:noinline
func keep(values ...interface{}) {
	if len(values) > 1000 {
		fmt.Println(values...)
	}
}

//go:noinline
func numbers(never chan struct{}) {
	truth := true
	i8, i16, i32, i64 := int8(-8), int16(-16), int32(-32), int64(-64)
	u8, u16, u32, u64 := uint8(8), uint16(16), uint32(32), uint64(1<<63)
	f32, f64 := float32(1.5), 2.25
	c64, c128 := complex64(complex(1, -2)), complex(3, 4)
	letter, favourite := 'ß', green
	address := uintptr(0xdead)
	when := time.Date(2024, 2, 29, 12, 30, 0, 0, time.UTC)
	long := 90 * time.Second
	<-never
	keep(truth, i8, i16, i32, i64, u8, u16, u32, u64, f32, f64, c64, c128, letter, favourite, address, when, long)
}

//go:noinline
func containers(never chan struct{}) {
	text, empty := "grüße", ""
	longText := string(make([]byte, 500))
	raw := []byte("bytes")
	array := [3]point{{1, 2}, {3, 4}, {5, 6}}
	slice := []string{"a", "b", "c"}[:2]
	none := []int(nil)
	many := make([]int, 200)
	nested := [][]int{{1}, nil, {2, 3}}
	table := map[string]int{"one": 1, "two": 2, "three": 3}
	big := map[int]string{}
	for n := 0; n < 100; n++ {
		big[n] = fmt.Sprint("value ", n)
	}
	byPoint := map[point]*square{{1, 2}: {3}}
	noMap := map[string]int(nil)
	empties := [0]int{}
	<-never
	keep(text, empty, longText, raw, array, slice, none, many, nested, table, big, byPoint, noMap, empties)
}

//go:noinline
func references(never chan struct{}) {
	number := 7
	pointer, pointerToIt := &number, (**int)(nil)
	pointerToIt = &pointer
	nobody := (*tree)(nil)
	loop := &tree{Value: 1}
	loop.Left = loop
	family := tree{Left: &tree{Value: 2}, Right: &tree{Value: 3, Left: &tree{Value: 4}}}
	mixed := embedded{point: point{9, 8}, square: &square{4}, name: "mixed"}
	anonymous := struct {
		A int
		B string
	}{1, "b"}
	opaque := unsafe.Pointer(&number)
	<-never
	keep(pointer, pointerToIt, nobody, loop, family, mixed, anonymous, opaque)
}

//go:noinline
func dynamic(never chan struct{}) {
	var nothing interface{}
	var noShape shape
	var typedNil shape = (*circle)(nil)
	anything := []interface{}{1, "two", 3.0, point{4, 4}, nil, []int{5}, &circle{6}}
	shapes := []shape{square{1}, &circle{2}}
	wrapped := fmt.Errorf("outer: %w", failure{3, errors.New("inner")})
	stringer := fmt.Stringer(point{1, 1})
	count := 10
	closure := func(more int) int { count += more; return count }
	method, plain := point.String, keep
	bound := point{2, 3}.String
	var noFunction func()
	<-never
	keep(nothing, noShape, typedNil, anything, shapes, wrapped, stringer, closure, method, bound, noFunction)
	plain(count)
}

//go:noinline
func generic[T any, K comparable](never chan struct{}, value T, key K) {
	both := pair[K, T]{key, value}
	chain := &list[T]{value, &list[T]{Head: value}}
	bag := map[K][]T{key: {value, value}}
	<-never
	keep(both, chain, bag)
}

//go:noinline
func channels(never chan struct{}) {
	buffered := make(chan point, 4)
	buffered <- point{1, 1}
	buffered <- point{2, 2}
	unbuffered, noChannel := make(chan int), (chan int)(nil)
	directed := (<-chan point)(buffered)
	group, once, value := &sync.WaitGroup{}, sync.Once{}, atomic.Value{}
	group.Add(2)
	value.Store("stored")
	<-never
	keep(unbuffered, noChannel, directed, group, &once, &value)
}

// Stands in a deferred call, with a panic in flight and another one that was recovered from.
//
//go:noinline
func panicking(never chan struct{}) {
	defer func() {
		reason := recover()
		defer func() {
			again := "the second"
			<-never
			keep(reason, again)
		}()
		panic(failure{9, errors.New("in flight")})
	}()
	panic("the first")
}

// Those that need C come to these where there is cgo.
var exhibits = []func(chan struct{}){numbers, containers, references, dynamic, channels, panicking}

func main() {
	never := make(chan struct{})
	for _, exhibit := range exhibits {
		go exhibit(never)
	}
	go generic(never, 1.5, "key")
	go generic(never, point{1, 2}, 3)
	packageMutex.Lock()
	keep(packageCount, packageMap, packageShape, packageNobody)
	// Nothing else happens here, so that what one debugger saw another sees too.
	time.Sleep(10000 * time.Hour)
}
