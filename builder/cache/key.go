package cache

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"

	digest "github.com/opencontainers/go-digest"
)

// keyVersion is part of all keys; a new one makes all records unreachable.
const keyVersion = "kiln.key.v1"

// DefinitionKey is the key of what a step is: its op and which results it
// stands on.
func DefinitionKey(op digest.Digest, inputs []Input) Key {
	h := newKeyHash("definition", op, len(inputs))
	for _, in := range inputs {
		h.field(string(in.Record))
		h.number(in.Output)
		h.field(in.Selector)
	}
	return h.key()
}

// ContentKey is the key of what a step is, where each input that has a content
// digest counts by it and not by where it came from.
func ContentKey(op digest.Digest, inputs []Input) Key {
	h := newKeyHash("content", op, len(inputs))
	for _, in := range inputs {
		if in.Content != "" {
			h.field("content")
			h.field(string(in.Content))
		} else {
			h.field(string(in.Record))
			h.number(in.Output)
		}
		h.field(in.Selector)
	}
	return h.key()
}

// FreshKey is the key of a step that must not find an earlier result: it holds
// a build's nonce, so that it is the same in all of that build.
func FreshKey(k Key, nonce string) Key {
	h := newKeyHash("fresh", digest.Digest(k), 0)
	h.field(nonce)
	return h.key()
}

// keyHash hashes fields with their lengths, so that no two lists are alike.
type keyHash struct{ h hash.Hash }

func newKeyHash(kind string, op digest.Digest, inputs int) keyHash {
	k := keyHash{sha256.New()}
	k.field(keyVersion)
	k.field(kind)
	k.field(string(op))
	k.number(inputs)
	return k
}

func (k keyHash) field(s string) {
	k.number(len(s))
	k.h.Write([]byte(s))
}

func (k keyHash) number(n int) {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], uint64(n))
	k.h.Write(b[:])
}

func (k keyHash) key() Key { return Key(hex.EncodeToString(k.h.Sum(nil))) }
