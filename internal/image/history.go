package image

import (
	"context"
	"time"
)

// Step is one line of an image's history.
type Step struct {
	Created   time.Time // zero: not said
	CreatedBy string
	Comment   string
	Size      int64 // bytes of the layer it made; 0 if none
}

// History returns how the image was made, the last step first.
func (s *Service) History(ctx context.Context, ref string) (Image, []Step, error) {
	i, err := s.Get(ctx, ref)
	if err != nil {
		return Image{}, nil, err
	}
	chain, err := s.layers.Chain(i.ChainID)
	if err != nil {
		return Image{}, nil, err
	}
	// Bottom first, as the history has them.
	var layers []int64
	for n := len(chain) - 1; n >= 0; n-- {
		layers = append(layers, chain[n].Size)
	}
	var steps []Step
	for _, h := range i.Config.History {
		st := Step{CreatedBy: h.CreatedBy, Comment: h.Comment}
		if h.Created != nil {
			st.Created = *h.Created
		}
		if !h.EmptyLayer && len(layers) > 0 {
			st.Size, layers = layers[0], layers[1:]
		}
		steps = append([]Step{st}, steps...)
	}
	for _, n := range layers { // of an image whose history does not tell of them
		steps = append([]Step{{Created: i.Created(), Size: n}}, steps...)
	}
	return i, steps, nil
}
