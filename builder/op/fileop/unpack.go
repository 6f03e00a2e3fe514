package fileop

import "context"

func (c *copier) unpack(ctx context.Context, from, to string) (bool, error) { return false, nil }
