package evaluator

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/google/go-jsonnet"

	"fleet/closure/run"
)

const (
	// maxRequest bounds what the child reads.
	maxRequest = 4 << 20
	// maxChildStack bounds a goroutine's stack, in bytes; the interpreter recurses in it.
	maxChildStack = 64 << 20
	// maxJsonnetError bounds an error's text.
	maxJsonnetError = 8 << 10
)

// RunJsonnetChild is the whole of the process that evaluates Jsonnet: it limits itself, reads a request, and answers. A hidden subcommand
// calls it; StaticOptions.Child is that command. An error of the evaluation is part of the answer; one that is returned
// is a broken request or pipe.
func RunJsonnetChild(stdin io.Reader, stdout io.Writer) error {
	input, err := readLimited(stdin, maxRequest)
	if err != nil {
		return fmt.Errorf("read request: %w", err)
	}
	var request jsonnetRequest
	if err := json.Unmarshal(input, &request); err != nil {
		return fmt.Errorf("read request: %w", err)
	}
	if len(request.Dirs) == 0 || request.CPU <= 0 || request.Memory == 0 {
		return fmt.Errorf("read request: it is not complete")
	}
	if err := limitChild(request); err != nil {
		return err
	}
	var answer jsonnetAnswer
	result, err := evaluateJsonnet(request)
	if err != nil {
		answer.Error = boundText(strings.TrimSpace(err.Error()), maxJsonnetError)
	} else {
		answer.Result = json.RawMessage(result)
	}
	if err := json.NewEncoder(stdout).Encode(answer); err != nil {
		return fmt.Errorf("write answer: %w", err)
	}
	return nil
}

// limitChild sets the limits. The address space is counted from what the runtime has reserved already.
func limitChild(request jsonnetRequest) error {
	debug.SetMaxStack(maxChildStack)
	debug.SetMemoryLimit(int64(request.Memory / 4 * 3))
	return run.LimitSelf(run.Limits{CPU: request.CPU, AddressSpace: addressSpace() + request.Memory})
}

// addressSpace is what this process has mapped, in bytes (proc(5), statm); where that is not known, what a Go
// program usually reserves.
func addressSpace() uint64 {
	const usual = 2 << 30
	data, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return usual
	}
	first, _, _ := strings.Cut(string(data), " ")
	pages, err := strconv.ParseUint(first, 10, 48)
	if err != nil {
		return usual
	}
	return pages * uint64(os.Getpagesize())
}

func evaluateJsonnet(request jsonnetRequest) (string, error) {
	imports, err := newImporter(request.Dirs)
	if err != nil {
		return "", err
	}
	defer imports.close()
	vm := jsonnet.MakeVM()
	vm.Importer(imports)
	for name, value := range request.ExtStr {
		vm.ExtVar(name, value)
	}
	return vm.EvaluateFile(request.File)
}

func boundText(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	return strings.ToValidUTF8(text[:limit], "") + "…"
}
