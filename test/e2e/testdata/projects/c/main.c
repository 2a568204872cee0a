#include <stdio.h>
#include <string.h>

#include "count.h"

int main(int argc, char **argv)
{
	struct counts n;

	if (argc > 1 && strcmp(argv[1], "-") != 0) {
		printf("usage: count [-]\n");
		return strcmp(argv[1], "--help") != 0;
	}
	n = count(stdin);
	printf("%lu lines, %lu words, %lu bytes\n", n.lines, n.words, n.bytes);
	return 0;
}
