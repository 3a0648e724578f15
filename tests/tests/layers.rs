//! Roots in a lower layer of an overlayfs, as in a container's image: it renames no directory of a lower layer (EXDEV), and the
//! tools have another way.

use strapline_tests::{Lab, Mirror, Ran, Server, Who};

/// Runs a script in a mount namespace of its own, in the laboratory.
fn alone(lab: &Lab, script: &str) -> Ran {
    let mut command = lab.command("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-ec", script]);
    strapline_tests::lab::run(&mut command)
}

/// A root that a pipeline made, in a lower layer, below an upper one for each thing that is done to it.
#[test]
fn a_keyring_in_a_lower_layer_is_replaced() {
    let (mirror, lab) = (Mirror::of("x86_64"), Lab::new(Who::Root));
    let server = Server::of(&mirror.www());
    let begin = format!(
        "mkroot root --arch x86_64 --distro {p} | fetch-pacman --use /usr/bin/pacman \
         | mkconf --server '{url}/$arch/$repo' --cache-dir $PWD/packages",
        p = mirror.preset().display(),
        url = server.url()
    );
    let ran = alone(
        &lab,
        &format!(
            "layer() {{ mount -t overlay -o lowerdir=lower,upperdir=$1/upper,workdir=$1/work o fs; }}
             for n in lower fs again foreign stripped; do mkdir $n; mkdir $n/upper $n/work; done
             mount --bind lower fs; cd fs
             {begin} | keyring | strap filesystem bash coreutils shadow >made.json
             cp -a root/etc/pacman.d/gnupg kept
             cd ..; umount fs
             # All that the tools do to a root.
             layer again; cd fs
             {begin} | keyring | strap nano | configure --hostname alarm --user ann | verify --no-files >again.json
             test -d root/home/ann
             cd ..; umount fs
             # Without what is beside the root nobody knows whose the keyring is.
             layer foreign; cd fs
             rm -r $(sed 's/.*\"gpgdir\":\"\\([^\"]*\\)\".*/\\1/' made.json)
             {begin} | keyring 2>err | strap nano | verify --no-files >foreign.json
             grep -q 'was not built by this pipeline: .* is kept as' err
             diff -r kept root/etc/pacman.d/gnupg.set-aside
             (cd kept && find . -printf '%P %m %U %G %y\\n' | sort) >kept.list
             (cd root/etc/pacman.d/gnupg.set-aside && find . -printf '%P %m %U %G %y\\n' | sort) >now.list
             diff kept.list now.list
             keyring --strip --state foreign.json >stripped.json
             test ! -e root/etc/pacman.d/gnupg.set-aside
             cd ..; umount fs
             layer stripped; cd fs
             {begin} | keyring --strip >stripped.json
             test -z \"$(find root/etc/pacman.d/gnupg -name '*.key')\"
             cd ..; umount fs"
        ),
    );
    assert_eq!(ran.status, 0, "{}", ran.stderr);
}
