_: _: throw "later"
