// Command service answers with its version and an identifier.
package main

import (
	"fmt"
	"log"
	"net/http"

	"github.com/google/uuid"
)

var version = "unknown"

func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "service %s, %s\n", version, uuid.NewSHA1(uuid.NameSpaceURL, []byte("https://example.com"+r.URL.Path)))
	})
	log.Fatal(http.ListenAndServe(":8080", nil))
}
