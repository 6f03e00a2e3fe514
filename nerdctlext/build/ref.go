package build

import (
	"crypto/rand"
	"math/big"
)

// refLength is that of the refs that BuildKit's clients make.
const refLength = 25

// NewRef returns a name for a build that no other build has: 25 characters of base 36.
func NewRef() string {
	var seed [17]byte
	rand.Read(seed[:]) // never fails
	text := new(big.Int).SetBytes(append([]byte{1}, seed[:]...)).Text(36)
	return text[len(text)-refLength:]
}
