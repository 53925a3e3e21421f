//go:build cgo

#include <stdlib.h>
#include <unistd.h>

struct thing {
	int number;
	double weight;
	const char *label;
	int several[3];
	struct thing *next;
};

extern void waitInGo(int);

struct thing *make_thing(void) {
	struct thing *thing = calloc(1, sizeof *thing);
	thing->number = 12;
	thing->weight = 1.25;
	thing->label = "labelled";
	thing->several[1] = 6;
	thing->next = thing;
	return thing;
}

void wait_in_c(void) {
	for (;;)
		pause();
}

void call_back(int depth) {
	waitInGo(depth);
}
