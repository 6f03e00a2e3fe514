// Command service is what the demo builds: a web service of one page.
package main

import (
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
)

const greeting = "Hello"

func main() {
	address := flag.String("address", "127.0.0.1:0", "what to listen on")
	flag.Parse()

	router := chi.NewRouter()
	router.Use(middleware.Compress(5))
	router.Get("/{name}", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s, %s!\n", greeting, chi.URLParam(r, "name"))
	})
	listener, err := net.Listen("tcp", *address)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("http://%s/\n", listener.Addr())
	log.Fatal(http.Serve(listener, router))
}
