package volume

import "gantry/internal/errs"

// limited reports whether the volume has a size.
func (r *record) limited() bool { return r.Options["size"] != "" && !r.mounted() }

// limit gives the volume's folder the size that its options ask for.
func (s *Service) limit(v *vol) error {
	if !v.limited() {
		return nil
	}
	return errs.Invalid.Errorf("quota size requested but no quota support")
}
