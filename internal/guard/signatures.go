package guard

// A Family names a group of scanner paths, for logs. The set is closed.
type Family string

// The families, after what the scanner is looking for.
const (
	FamilyDotenv    Family = "dotenv"    // environment files
	FamilyVCS       Family = "vcs"       // version control folders
	FamilySecrets   Family = "secrets"   // keys, passwords, cloud credentials
	FamilyBackup    Family = "backup"    // dumps and copies left behind
	FamilyPHP       Family = "php"       // PHP scripts and web shells
	FamilyWordPress Family = "wordpress" // WordPress and its plug-ins
	FamilyDBAdmin   Family = "dbadmin"   // database front ends
	FamilyIoT       Family = "iot"       // routers, cameras, recorders
	FamilyShell     Family = "shell"     // shells and system files
	FamilyJava      Family = "java"      // Java servers and their consoles
	FamilyVPN       Family = "vpn"       // VPN gateways and load balancers
	FamilyMicrosoft Family = "microsoft" // Exchange, SharePoint, ASP, SAP
	FamilyFramework Family = "framework" // debug pages of web frameworks
	FamilyNmap      Family = "nmap"      // probes of nmap itself
	FamilyContainer Family = "container" // Docker and Kubernetes
	FamilyDoH       Family = "doh"       // DNS over HTTPS resolvers
	FamilyLiveness  Family = "liveness"  // probes for proxies and botnets
)

// families are the paths scanners ask for. They are only asked about when no
// route took the request, so they need not spare a WordPress or a Nextcloud
// that is configured. See matcher for the notation.
//
// Left out on purpose are paths that programs of real people try without
// being asked (autodiscover of mail programs, browser icons, see Unasked) and
// those a person may type (/admin, /login, /console, /webmail, /swagger): as
// NoRoute they count for little.
var families = []patternGroup{
	{FamilyDotenv, []string{"/.env"}},
	{FamilyVCS, []string{
		"/.git|", "/.git-credentials$", "/.gitconfig$", "/.svn|", "/.hg|", "/.bzr|",
	}},
	{FamilySecrets, []string{
		"/.aws|", "/.ssh|", "/.kube|", "/.docker|", "/.npmrc$", "/.netrc$",
		"/.htpasswd", "/.htaccess", "/.bash_history$", "/.ds_store$", "/.vscode|", "/.idea|",
		"/sftp-config.json$", "/appsettings.", "/id_rsa", "/id_ed25519", ".tfstate|", ".tfvars$",
		"/credentials.json$", "/secrets.json$", "/docker-compose.y", "/web.config$",
	}},
	{FamilyBackup, []string{
		".bak$", ".sql$", ".sql.gz$", ".sql.zip$", "/backup.zip$", "/backup.tar", "/www.zip$", "/site.zip$",
	}},
	{FamilyPHP, []string{".php$", ".php/", ".php5$", ".php7$", ".phtml$", "/vendor/phpunit|", "/phpinfo"}},
	{FamilyWordPress, []string{
		"/wp-admin|", "/wp-login", "/wp-content|", "/wp-includes|", "/wp-json|", "/wp-config", "/wlwmanifest.xml$",
	}},
	{FamilyDBAdmin, []string{"/phpmyadmin", "/phppgadmin", "/pma|", "/dbadmin|", "/mysqladmin|", "/adminer"}},
	{FamilyIoT, []string{
		"/cgi-bin|", "/luci|", "/boaform|", "/gponform|", "/hnap1|", "/goform|", "/ctrlt|", "/setup.cgi$",
		"/tmunblock.cgi$", "/board.cgi$", "/login.cgi$", "/sdk/weblanguage$", "/hedwig.cgi$", "/rom-0$",
		"/device.rsp$", "/picsdesc.xml$", "/webfig|", "/currentsetting.htm$", "/onvif|", "/isapi|",
	}},
	{FamilyShell, []string{"/bin/sh$", "/bin/bash$", "^/shell$", "/etc/passwd", "/etc/shadow", "/proc/self|"}},
	{FamilyJava, []string{
		"/actuator|", "/solr/admin|", "/manager/html|", "/manager/status|", "/host-manager|", "/api/jsonws|",
		"/geoserver|", "/jolokia|", "/invoker|", "/nacos|", "/druid/index.html$", "/wls-wsat|", "/_async|",
		".jsp$", ".jspx$", ".action$", "/struts",
	}},
	{FamilyVPN, []string{
		"/remote/login$", "/remote/fgt_lang$", "/remote/logincheck$", "/dana-na|", "/ cscoe |",
		"/global-protect|", "/ssl-vpn|", "/sslvpn|", "/vpn/index.html$", "/vpns|", "/tmui|",
		"/mgmt/tm|",
	}},
	{FamilyMicrosoft, []string{
		"^/owa|", "^/ecp|", "/autodiscover.json@", "/developmentserver|", "/_layouts|", "/_vti_bin|",
		"/telerik.web.ui", "/aspnet_client|", ".asp$", ".aspx$", ".ashx$", "/trace.axd$", "/elmah.axd$",
	}},
	{FamilyFramework, []string{
		"/_ignition|", "/telescope|", "/_profiler|", "/_debugbar|", "/horizon/api|", "/server-status$",
		"/server-info$",
	}},
	{FamilyNmap, []string{"/nmaplowercheck", "/nmapuppercheck", "/nice ports,", "/evox|", "^/sdk$"}},
	{FamilyContainer, []string{"^/containers/json$", "^/v2/_catalog$", "^/api/v1/pods$", "^/api/v1/namespaces|"}},
	{FamilyDoH, []string{"^/dns-query|"}},
	{FamilyLiveness, []string{"/hello.world$", "^/t4$", "^/aaa9$", "^/aab8$", "^/aab9$", "^/ab2g$", "^/ab2h$"}},
}

// maxFamilies is at least the number of families.
const maxFamilies = 20

// familyIndex is the place of f among the families, -1 if it is not one.
func familyIndex(f Family) int {
	if f == "" {
		return -1
	}
	for i := range families {
		if families[i].name == f {
			return i
		}
	}
	return -1
}

// signatures finds families in a path.
var signatures = newMatcher(families)

// ScannerSignature reports whether only scanners ask for path, and what they
// look for. path is the raw path, without the query. It must be asked only
// when no route takes the request: with WordPress behind us, /wp-login.php is
// no scan. It is pure and allocates nothing.
func ScannerSignature(path string) (Family, bool) {
	group, _, _ := signatures.find(path, 0, signatures.start)
	if group < 0 {
		return "", false
	}
	return families[group].name, true
}

// unaskedPaths are the paths of Unasked.
var unaskedPaths = []patternGroup{{"unasked", []string{
	"^/favicon.", "^/apple-touch-icon", "^/robots.txt$", "^/ads.txt$", "^/app-ads.txt$", "^/humans.txt$",
	"^/security.txt$", "^/sitemap.xml$", "^/manifest.json$", "^/site.webmanifest$", "^/browserconfig.xml$",
	"^/.well-known/", "^/service-worker.js$", "^/sw.js$", "^/crossdomain.xml$",
	"^/autodiscover/autodiscover.xml$", "^/autodiscover/autodiscover.json$", "^/autodiscover/autodiscover.json/v1.0/",
	"^/mail/config-v1.1.xml$",
}}}

var unasked = newMatcher(unaskedPaths)

// Unasked reports whether browsers, mail programs or certificate authorities
// ask for the raw path, without the query, without anybody having told them
// to, such as /favicon.ico and everything below /.well-known/. When no route
// takes it, that says nothing about the address: it should not be observed as
// NoRoute. It is pure and allocates nothing.
func Unasked(path string) bool {
	group, _, _ := unasked.find(path, 0, unasked.start)
	return group >= 0
}
