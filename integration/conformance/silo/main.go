// Command silo is an S3 server in memory. BuildKit's suites start a program of
// this name as `silo server --json --address ADDRESS DIR` and ask its health
// below /minio/ until that answers.
package main

import (
	"log"
	"net/http"
	"os"
	"slices"
	"strings"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
)

func main() {
	flag := slices.Index(os.Args, "--address")
	if flag < 0 || flag+1 == len(os.Args) {
		log.Fatal("silo: no --address")
	}
	buckets := gofakes3.New(s3mem.New(), gofakes3.WithAutoBucket(true)).Server()
	log.Fatal(http.ListenAndServe(os.Args[flag+1], http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/minio/") {
			buckets.ServeHTTP(w, r)
		}
	})))
}
