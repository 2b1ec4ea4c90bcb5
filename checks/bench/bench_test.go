package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fleet/checks/section"
)

func TestCellsAreNamedByScenarioAndLink(t *testing.T) {
	for text, want := range map[string]string{
		"fresh:100m":            "fresh:100m",
		"noop:10m,tiny:1g":      "noop:10m tiny:1g",
		"patch:*":               "patch:unlimited patch:1g patch:100m patch:20m patch:10m",
		"*:20m,fresh:unlimited": "fresh:20m rebuild:20m patch:20m upgrade:20m noop:20m tiny:20m large:20m drop:20m small:20m small-rebuild:20m many:20m fresh:unlimited",
		"fresh:1t":              "",
		"fresh":                 "",
		"":                      "",
	} {
		cells, err := parseCells(text)
		var got []string
		for _, c := range cells {
			got = append(got, c.String())
		}
		if strings.Join(got, " ") != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v, want %q", text, got, err, want)
		}
	}
}

func TestEveryGoalIsMeasuredByItsCells(t *testing.T) {
	cells, err := parseCells(goalCells)
	if err != nil {
		t.Fatal(err)
	}
	r, err := loadResults(filepath.Join(t.TempDir(), "none"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cells {
		r.Facts[c.scenario.name] = facts{NAR: 1, Zstd19: 1}
		for _, method := range c.methods() {
			r.add(c, method, measured{Seconds: 1, Wire: 1, SenderCPU: 1, Steps: map[string]float64{"push": 1}})
		}
	}
	for _, g := range goals {
		if _, ok := g.value(r); !ok {
			t.Errorf("nothing of %s measures: %s", goalCells, g.text)
		}
	}
}

func TestAGoalIsReachedAtItsLimit(t *testing.T) {
	r, _ := loadResults(filepath.Join(t.TempDir(), "none"))
	c := at("fresh", "unlimited")
	r.add(c, fleet, measured{Seconds: 1})
	r.add(c, sshNG, measured{Seconds: 1.4})
	if table := goalTable(r); !strings.Contains(table, "| ≥ 1.4× | 1.40× | reached |") {
		t.Error(table)
	}
	r.add(c, sshOld, measured{Seconds: 1.3})
	if table := goalTable(r); !strings.Contains(table, "| ≥ 1.4× | 1.30× | missed |") {
		t.Error(table)
	}
}

func TestTheMedianIsAMeasuredValue(t *testing.T) {
	for _, test := range []struct{ values, want []float64 }{
		{[]float64{3}, []float64{3, 3, 3}},
		{[]float64{9, 1}, []float64{1, 1, 9}},
		{[]float64{5, 1, 2, 9, 7}, []float64{5, 1, 9}},
	} {
		var runs []measured
		for _, v := range test.values {
			runs = append(runs, measured{Seconds: v})
		}
		got, ok := spreadOf(runs, seconds)
		if !ok || got.median != test.want[0] || got.least != test.want[1] || got.most != test.want[2] {
			t.Errorf("%v: %v, want %v", test.values, got, test.want)
		}
	}
	if _, ok := spreadOf(nil, seconds); ok {
		t.Error("nothing has a median")
	}
}

func TestOneSectionIsReplaced(t *testing.T) {
	file := filepath.Join(t.TempDir(), "page.md")
	if err := os.WriteFile(file, []byte("before\n<!-- x -->\nold\n<!-- end of x -->\nafter\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := section.Replace(file, "x", "new\n"); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(file)
	if want := "before\n<!-- x -->\nnew\n<!-- end of x -->\nafter\n"; err != nil || string(data) != want {
		t.Errorf("%q, %v", data, err)
	}
	if err := section.Replace(file, "y", ""); err == nil {
		t.Error("a section that is not there was replaced")
	}
}

// The page says what the results do: nobody has edited one of them alone.
func TestThePageIsMadeOfTheResults(t *testing.T) {
	r, err := loadResults("results.json")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../" + tableFile)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(page), "<!-- "+tableName+" -->\n\n"+render(r)+"\n<!-- end of "+tableName+" -->") {
		t.Errorf("%s is not what results.json says; run the benchmark with -update", tableFile)
	}
}
