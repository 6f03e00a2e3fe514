package local

// maxCached bounds the entries of the indexes that are held in memory, some
// 300 bytes each. The one used last is always held.
const maxCached = 300_000

// indexCache holds the indexes that were used last, by the layers' names.
type indexCache struct {
	byName  map[string]*index
	order   []string // the one used last is last
	entries int
}

func (c *indexCache) get(name string) *index {
	x := c.byName[name]
	if x != nil {
		c.drop(name)
		c.put(name, x)
	}
	return x
}

func (c *indexCache) put(name string, x *index) {
	c.drop(name)
	if c.byName == nil {
		c.byName = map[string]*index{}
	}
	c.byName[name] = x
	c.order = append(c.order, name)
	c.entries += len(x.entries)
	for c.entries > maxCached && len(c.order) > 1 {
		c.drop(c.order[0])
	}
}

func (c *indexCache) drop(name string) {
	x := c.byName[name]
	if x == nil {
		return
	}
	delete(c.byName, name)
	c.entries -= len(x.entries)
	for i, n := range c.order {
		if n == name {
			c.order = append(c.order[:i:i], c.order[i+1:]...)
			return
		}
	}
}
