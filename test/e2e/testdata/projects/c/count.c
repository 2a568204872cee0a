#include <ctype.h>
#include <stdio.h>

#include "count.h"

struct counts count(FILE *in)
{
	struct counts n = {0, 0, 0};
	int c, inside = 0;

	while ((c = getc(in)) != EOF) {
		n.bytes++;
		n.lines += c == '\n';
		if (isspace(c))
			inside = 0;
		else if (!inside)
			inside = 1, n.words++;
	}
	return n;
}
