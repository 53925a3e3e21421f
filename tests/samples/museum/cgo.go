//go:build cgo

package main

/*
#include <stdlib.h>

struct thing {
	int number;
	double weight;
	const char *label;
	int several[3];
	struct thing *next;
};
union either { int whole; float part; };
enum mood { CALM, HASTY = 7 };

struct thing *make_thing(void);
void wait_in_c(void);
void call_back(int depth);
*/
import "C"

import "unsafe"

func init() {
	exhibits = append(exhibits, ofC, waitsInC, calledBack)
}

// Values whose types are C's.
//
//go:noinline
func ofC(never chan struct{}) {
	thing := C.make_thing()
	copied := *thing
	text := C.CString("a text of C's")
	number, letter, size := C.int(-5), C.char('c'), C.size_t(77)
	mood := C.enum_mood(C.HASTY)
	var either C.union_either
	*(*C.int)(unsafe.Pointer(&either)) = 3
	array := [2]C.long{4, 5}
	<-never
	keep(thing, copied, text, number, letter, size, mood, either, array)
}

// Its goroutine stands in a function of C's.
//
//go:noinline
func waitsInC(never chan struct{}) {
	before := "in C"
	C.wait_in_c()
	keep(before, never)
}

var neverBack chan struct{}

// Frames of Go's, of C's, and of Go's again.
//
//go:noinline
func calledBack(never chan struct{}) {
	outer := "called C"
	neverBack = never
	C.call_back(2)
	keep(outer)
}

//export waitInGo
func waitInGo(depth C.int) {
	inner := "called by C"
	if depth > 1 {
		C.call_back(depth - 1)
	}
	<-neverBack
	keep(inner)
}
