// Package stemcmd is the command line of Stem, for the stem program and for
// programs with Go tasks of their own:
//
//	func main() {
//		os.Exit(stemcmd.Main(stemcmd.App{
//			Name:  "shop",
//			Tasks: []stem.Registration{tasks.Resize.With(resize), tasks.Mail.Do(mail)},
//		}))
//	}
//
// Such a program has every command: shop dev, shop worker run, shop enqueue,
// shop dlq list, and so on. docs/cli.md lists them all.
//
// Data goes to standard output, everything else to standard error. The exit
// codes are constants of this package.
package stemcmd
