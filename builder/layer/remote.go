package layer

// Remote is the tree of an image of which nothing is here. It is good for
// [Store.Blobs] only, which gives the image's own blobs, as absent ones.
func Remote(img Image) (*Layer, error) {
	if err := img.check(); err != nil {
		return nil, err
	}
	var top *Layer
	for i, name := range img.names().chain {
		top = &Layer{Name: name, Parent: top, source: img.blob(i), remote: true}
		top.source.Absent = true
		if img.Created != nil {
			top.Created = img.Created[i]
		}
		if img.Description != nil {
			top.Description = img.Description[i]
		}
	}
	return top, nil
}
