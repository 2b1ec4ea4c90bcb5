package push

// Importer takes store paths on the operator's machine.
type Importer interface{}
