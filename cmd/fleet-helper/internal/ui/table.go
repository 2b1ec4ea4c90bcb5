package ui

import (
	"strings"

	"fleet/cmd/fleet-helper/internal/text"
)

// Cell is a cell of a [Table].
type Cell struct {
	// Text is shown on one line, free of escape codes.
	Text string
	// Color is a colour of this package, or empty.
	Color string
}

// Table is a table for a person.
type Table struct {
	Header []string
	Rows   [][]Cell
	// Width is where lines are cut; 0 means never.
	Width int
}

// String renders the table without colours.
func (t *Table) String() string { return t.render(style{}) }

// render aligns the columns with two spaces between them.
func (t *Table) render(s style) string {
	header := make([]Cell, len(t.Header))
	for i, h := range t.Header {
		header[i] = Cell{Text: h, Color: dim}
	}
	rows := append([][]Cell{header}, t.Rows...)
	widths := make([]int, len(t.Header))
	for _, row := range rows {
		for i, c := range row {
			widths[i] = max(widths[i], text.Width(text.Line(c.Text)))
		}
	}
	var b strings.Builder
	for _, row := range rows {
		b.WriteString(t.renderRow(row, widths, s) + "\n")
	}
	return b.String()
}

func (t *Table) renderRow(row []Cell, widths []int, s style) string {
	var b strings.Builder
	left := t.Width
	for i, c := range row {
		cell := text.Line(c.Text)
		if i < len(row)-1 {
			cell = text.Pad(cell, widths[i])
		}
		if t.Width > 0 {
			cell = text.Cut(cell, left)
			left = max(0, left-text.Width(cell)-2)
		}
		b.WriteString(s.paint(c.Color, cell))
		if i < len(row)-1 && (t.Width == 0 || left > 0) {
			b.WriteString("  ")
		}
	}
	return strings.TrimRight(b.String(), " ")
}
