# GitLab with secrets that are made once, by the commands of fleet, and that only this host can decrypt.
{
  config,
  lib,
  options,
  ...
}:
let
  # GitLab reads its secrets as its own user.
  forGitlab =
    generator:
    {
      inherit generator;
      owner = "gitlab";
      group = "gitlab";
    };

  password = forGitlab ({ mkPassword }: mkPassword { });

  # NixOS since 25.05 wants three more, for what GitLab encrypts in its database.
  recordKeys = lib.optionals (options.services.gitlab.secrets ? activeRecordSaltFile) [
    "activeRecordPrimaryKey"
    "activeRecordDeterministicKey"
    "activeRecordSalt"
  ];
in
{
  secrets = {
    gitlab-root = password;
    gitlab-secret = password;
    gitlab-otp = password;
    gitlab-db = password;
    gitlab-jws = forGitlab ({ mkRsa }: mkRsa { });
  }
  // lib.genAttrs recordKeys (_: forGitlab ({ mkHexBytes }: mkHexBytes { count = 32; }));

  services.gitlab = {
    enable = true;
    initialRootPasswordFile = config.secrets.gitlab-root.secretPath;
    secrets = {
      secretFile = config.secrets.gitlab-secret.secretPath;
      otpFile = config.secrets.gitlab-otp.secretPath;
      dbFile = config.secrets.gitlab-db.secretPath;
      jwsFile = config.secrets.gitlab-jws.secretPath;
    }
    // lib.listToAttrs (
      map (name: lib.nameValuePair "${name}File" config.secrets.${name}.secretPath) recordKeys
    );
  };
}
