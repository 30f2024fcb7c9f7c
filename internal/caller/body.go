package caller

// BodyCheck is what remains to be looked at: a body.
type BodyCheck struct{}
