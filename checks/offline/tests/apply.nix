{ value }: { lib, ... }: { options.v = lib.mkOption { default = value; }; }
