package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"filippo.io/age"

	"fleet/closure/storepath"
	"fleet/push/proto"
	"fleet/secretsgen/install"
	"fleet/secretsgen/seal"
	"fleet/secretsgen/step"
)

// manifestFile is where a system has its manifest of secrets.
const manifestFile = "etc/fleet/secrets.json"

// needRoot refuses what only an agent with root's rights can do.
func (s *session) needRoot(what string) error {
	if s.host.Root() {
		return nil
	}
	return &proto.Error{
		Code: proto.CodeForbidden, Message: what + ": only root can read the host's private keys, and the login user has not become root",
		Remedy: `log in as root (deploy.user), or let the user become root: deploy.elevation = "auto"`,
	}
}

// secretsRun runs a generator as the login user, and sends what it prints. It ends with ctx.
func (s *session) secretsRun(ctx context.Context, req step.Request, log io.Writer) (step.Result, error) {
	if err := s.needRoot("run a generator"); err != nil {
		return step.Result{}, err
	}
	program, err := storepath.Containing(req.Program)
	if err != nil {
		return step.Result{}, proto.Errorf(proto.CodeUsage, "%.300q is no program in the store", req.Program)
	}
	valid, err := s.valid(ctx, program)
	if err != nil {
		return step.Result{}, err
	}
	if !valid {
		return step.Result{}, pathError(proto.CodeNotFound, program.String(), "generator %s is not valid on the host", program)
	}
	options, err := s.stepOptions(req)
	if err != nil {
		return step.Result{}, err
	}
	say := func(line string) {
		// Where it cannot be sent, the stream has ended, and ctx with it.
		_, _ = io.WriteString(log, line+"\n")
	}
	options.Reporter, options.Warn = say, say
	return s.host.RunStep(ctx, req, options)
}

// stepOptions say as whom a generator runs, and give it keys where it reads other secrets.
func (s *session) stepOptions(req step.Request) (step.Options, error) {
	helper, err := os.Executable()
	if err != nil {
		return step.Options{}, fmt.Errorf("run a generator: find the helper: %w", err)
	}
	owner, err := lookUp(s.owner)
	if err != nil {
		return step.Options{}, fmt.Errorf("run a generator as user %d: %w", s.owner, err)
	}
	options := step.Options{Helper: helper, User: owner}
	for _, dependency := range req.Dependencies {
		if len(dependency.Sealed) > 0 && options.Identities == nil {
			if options.Identities, err = s.identities(); err != nil {
				return step.Options{}, err
			}
		}
	}
	return options, nil
}

// identities reads the host's private keys: the usual ones, and those that the system that runs names, since keys may lie elsewhere
// (secretIdentities), as where the root file system is not kept.
func (s *session) identities() ([]age.Identity, error) {
	files := slices.Clone(s.host.Identities)
	for _, file := range namedIdentities(filepath.Join(s.host.Run, "current-system", manifestFile)) {
		if filepath.IsAbs(file) && !slices.Contains(files, file) {
			files = append(files, file)
		}
	}
	return seal.LoadIdentities(files...)
}

// maxManifest bounds what is read of a running system's manifest, in bytes.
const maxManifest = 256 << 20

// namedIdentities are the files that a manifest names. Any version's has them under this name; of one that cannot be read there are none, and the
// usual ones are left.
func namedIdentities(name string) []string {
	f, err := openRegular(name)
	if err != nil {
		return nil
	}
	defer f.Close()
	var manifest struct {
		Identities []string `json:"identities"`
	}
	if err := json.NewDecoder(io.LimitReader(f, maxManifest)).Decode(&manifest); err != nil {
		return nil
	}
	return manifest.Identities
}

// secretsRewrap seals values that the host owns to other keys.
func (s *session) secretsRewrap(_ context.Context, req seal.RewrapRequest) (seal.RewrapResult, error) {
	if err := s.needRoot("seal secrets to other keys"); err != nil {
		return seal.RewrapResult{}, err
	}
	identities, err := s.identities()
	if err != nil {
		return seal.RewrapResult{}, err
	}
	return seal.RewrapAll(req, identities...)
}

// secretsOpen shows one value to the operator.
func (s *session) secretsOpen(_ context.Context, req seal.Ref) (proto.SecretValue, error) {
	if err := s.needRoot("open a secret"); err != nil {
		return proto.SecretValue{}, err
	}
	identities, err := s.identities()
	if err != nil {
		return proto.SecretValue{}, err
	}
	opened, err := req.Open(identities...)
	if err != nil {
		return proto.SecretValue{}, err
	}
	return proto.SecretValue{Value: opened.Value.Bytes(), Salt: opened.Salt}, nil
}

// secretsVerify decrypts values in memory and compares them with what they should be.
func (s *session) secretsVerify(_ context.Context, req proto.SecretsVerifyRequest) (proto.SecretsVerifyResult, error) {
	if err := s.needRoot("verify secrets"); err != nil {
		return proto.SecretsVerifyResult{}, err
	}
	refs := make([]seal.Ref, len(req.Parts))
	for i, part := range req.Parts {
		if err := json.Unmarshal(part, &refs[i]); err != nil {
			return proto.SecretsVerifyResult{}, proto.Errorf(proto.CodeUsage, "verify secrets: part %d: %v", i, err)
		}
	}
	identities, err := s.identities()
	if err != nil {
		return proto.SecretsVerifyResult{}, err
	}
	return proto.SecretsVerifyResult{Wrong: seal.VerifyAll(refs, identities...)}, nil
}

// secretsPreflight looks at the manifests of a system, and at once finds nothing where it has none.
func (s *session) secretsPreflight(ctx context.Context, req proto.SecretsPreflightRequest) (install.Report, error) {
	toplevel, err := storepath.Parse(req.Toplevel)
	if err != nil || req.Specialisation != "" && !plainName(req.Specialisation) {
		return install.Report{}, proto.Errorf(proto.CodeUsage, "%.300q with specialisation %.60q is no system", req.Toplevel, req.Specialisation)
	}
	if _, err := os.Stat(toplevel.String()); err != nil {
		return install.Report{}, pathError(proto.CodeNotFound, req.Toplevel, "check secrets: %v", err)
	}
	dirs := []string{toplevel.String()}
	if req.Specialisation != "" {
		dirs = append(dirs, filepath.Join(toplevel.String(), "specialisation", req.Specialisation))
	}
	report := install.Report{Failed: []install.Failure{}}
	known := map[string]bool{}
	for _, dir := range dirs {
		failed, err := s.checkManifest(ctx, filepath.Join(dir, manifestFile))
		if err != nil {
			return install.Report{}, err
		}
		for _, f := range failed {
			if !known[f.What()] {
				known[f.What()] = true
				report.Failed = append(report.Failed, f)
			}
		}
	}
	if more := len(report.Failed) - maxFailures; more > 0 {
		rest := install.Failure{Template: "and others", Reason: fmt.Sprintf("%d more cannot be installed", more)}
		report.Failed = append(report.Failed[:maxFailures], rest)
	}
	return report, nil
}

// maxFailures bounds what a preflight lists, so that its answer stays within the protocol's bound.
const maxFailures = 250

func (s *session) checkManifest(ctx context.Context, name string) ([]install.Failure, error) {
	f, err := openRegular(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("check secrets: %w", err)
	}
	defer f.Close()
	if err := s.needRoot("check secrets"); err != nil {
		return nil, err
	}
	manifest, err := install.DecodeManifest(f)
	if err != nil {
		return nil, fmt.Errorf("check secrets: %w", err)
	}
	report, err := s.host.CheckSecrets(ctx, manifest)
	if err != nil {
		return nil, fmt.Errorf("check secrets: %w", err)
	}
	return report.Failed, nil
}
