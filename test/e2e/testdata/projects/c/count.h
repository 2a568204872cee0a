struct counts {
	unsigned long lines, words, bytes;
};

/* counts what in has from here to its end */
struct counts count(FILE *in);
