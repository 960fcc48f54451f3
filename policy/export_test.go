package policy

import (
	"github.com/RoaringBitmap/roaring/v2"

	"weft/model"
)

// DiffUpTo is Diff with another limit of cells.
var DiffUpTo = diff

// AllLabels are those of every identity.
func (x *Identities) AllLabels() map[Identity]map[string]string { return x.labels }

// Compute is Members without what is kept.
func (x *Identities) Compute(s model.Selector) *roaring.Bitmap { return x.compute(s) }
