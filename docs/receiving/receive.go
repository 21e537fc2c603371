// A receiver of webhooks that takes only what was signed: WEBHOOK_SECRETS="whsec_…" go run receive.go [PORT]
package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

var keys [][]byte  // one secret, or the new and the old one while they change
var taken sync.Map // the ids that were taken; in earnest a table beside what the events do

// Why the request must not be believed; empty when it is right.
func flaw(header http.Header, body []byte) string {
	id, timestamp := header.Get("webhook-id"), header.Get("webhook-timestamp")
	seconds, err := strconv.ParseUint(timestamp, 10, 40)
	if err != nil || id == "" || strings.Contains(id, ".") {
		return "its headers are not those of a webhook"
	}
	if time.Since(time.Unix(int64(seconds), 0)).Abs() > 5*time.Minute {
		return "it is too old, or from the future"
	}
	for _, key := range keys {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(id + "." + timestamp + "."))
		mac.Write(body)
		right := []byte("v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)))
		for _, given := range strings.Split(header.Get("webhook-signature"), " ") {
			if hmac.Equal(right, []byte(given)) {
				return ""
			}
		}
	}
	return "no signature matches"
}

func receive(response http.ResponseWriter, request *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(response, request.Body, 2<<20)) // the bytes as they came
	if err != nil {
		response.WriteHeader(http.StatusRequestEntityTooLarge)
		return
	}
	id, kind := request.Header.Get("webhook-id"), request.Header.Get("sluiced-event-type")
	if why := flaw(request.Header, body); why != "" {
		fmt.Println("refused:", why)
		response.WriteHeader(http.StatusBadRequest)
		return
	}
	if _, repeated := taken.LoadOrStore(id, true); repeated {
		fmt.Println("repeated", id)
	} else {
		fmt.Println("received", id, kind, string(body))
	}
	response.WriteHeader(http.StatusNoContent)
}

func main() {
	for _, text := range strings.Fields(os.Getenv("WEBHOOK_SECRETS")) {
		key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(text, "whsec_"))
		if err != nil || len(key) < 24 {
			log.Fatal("WEBHOOK_SECRETS has something that is no secret: whsec_…")
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		log.Fatal("WEBHOOK_SECRETS has no secret: whsec_…")
	}
	port := "8000"
	if len(os.Args) > 1 {
		port = os.Args[1]
	}
	listener, err := net.Listen("tcp", "127.0.0.1:"+port)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("listening on http://" + listener.Addr().String())
	log.Fatal(http.Serve(listener, http.HandlerFunc(receive)))
}
