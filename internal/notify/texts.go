package notify

import (
	"maps"
	"strings"
)

// Language is the language of messages.
type Language string

// The languages.
const (
	English Language = "en"
	Korean  Language = "ko"
)

// Languages returns every language.
func Languages() []Language { return []Language{English, Korean} }

// label names a text that belongs to no Kind.
type label string

const (
	labelDigest      label = "digest"
	labelDay         label = "day"
	labelMore        label = "more"
	labelTimes       label = "times"
	labelBans        label = "bans"
	labelRefused     label = "refused"
	labelFamilies    label = "families"
	labelNetworks    label = "networks"
	labelDropped     label = "dropped"
	labelChart       label = "chart"
	labelUpdated     label = "updated"
	labelIncidents   label = "incidents"
	labelNothingElse label = "nothing_else"
)

// text is one entry of the table: a headline without placeholders and, for
// kinds, a body with them.
type text struct{ head, body string }

// both is a text in every language.
type both = map[Language]text

// texts is the table of everything that people are told, by Kind or label.
func texts() map[string]both {
	out := kindTexts()
	maps.Copy(out, labelTexts())
	return out
}

func kindTexts() map[string]both {
	return map[string]both{
		string(CertTrouble): {
			English: {"Certificate in trouble", "{name}: {sentence}"},
			Korean:  {"인증서에 문제가 있습니다", "{name}: {sentence}"},
		},
		string(CertWell): {
			English: {"Certificate well again", "{name} is well again after {lasted}"},
			Korean:  {"인증서 문제가 해결되었습니다", "{name}: {lasted} 만에 정상으로 돌아왔습니다"},
		},
		string(DNSHostDown): {
			English: {"DNS host down", "{host}: {sentence}"},
			Korean:  {"DNS 서비스가 응답하지 않습니다", "{host}: {sentence}"},
		},
		string(DNSHostUp): {
			English: {"DNS host up again", "{host} answers again after {lasted}"},
			Korean:  {"DNS 서비스가 복구되었습니다", "{host}: {lasted} 만에 다시 응답합니다"},
		},
		string(AddressChanged): {
			English: {"Address changed", "{name}: from {old} to {new}"},
			Korean:  {"공인 IP 주소가 바뀌었습니다", "{name}: {old} → {new}"},
		},
		string(AddressTrouble): {
			English: {"Address in trouble", "{name}: {sentence}"},
			Korean:  {"IP 주소에 문제가 있습니다", "{name}: {sentence}"},
		},
		string(AddressWell): {
			English: {"Address well again", "{name} is well again after {lasted}"},
			Korean:  {"IP 주소 문제가 해결되었습니다", "{name}: {lasted} 만에 정상으로 돌아왔습니다"},
		},
		string(ScannerServed): {
			English: {"A scanner was served", "{address} asked {host} for {path}, and a backend answered with it; look whether that should be public"},
			Korean:  {"스캐너의 요청이 성공했습니다", "{address} 주소가 {host} 사이트의 {path} 경로를 요청했고 백엔드가 응답했습니다. 공개되어도 되는지 확인하세요"},
		},
		string(LimitHit): {
			English: {"Limit reached", "{limit}, the last one by {address}; what is beyond is refused"},
			Korean:  {"한도에 도달했습니다", "{limit} (마지막 요청: {address}). 한도를 넘는 요청은 거부됩니다"},
		},
		string(ClientLimited): {
			English: {"Limit on a client", "limit reached: {limit}"},
			Korean:  {"클라이언트 한도", "한도 도달: {limit}"},
		},
		string(BansFull): {
			English: {"Table of bans full", "{address} could not be banned, because all places are taken"},
			Korean:  {"차단 목록이 가득 찼습니다", "자리가 없어 {address} 주소를 차단하지 못했습니다"},
		},
		string(BansOff): {
			English: {"Bans switched off", "all clients seem to come from {address}: a router or a container network hides who they are, so nobody is banned by address"},
			Korean:  {"차단 기능이 꺼졌습니다", "모든 클라이언트가 {address} 주소로 보입니다. 공유기나 컨테이너 네트워크가 실제 주소를 가리고 있어 주소별 차단을 하지 않습니다"},
		},
		string(BansOn): {
			English: {"Bans on again", "clients can be told apart again, so bans are back"},
			Korean:  {"차단 기능이 다시 켜졌습니다", "클라이언트를 다시 구별할 수 있어 차단을 재개합니다"},
		},
		string(GuardOff): {
			English: {"Guard switched off", "guard.mode is {mode} now: scanners are let in"},
			Korean:  {"가드가 꺼졌습니다", "guard.mode 설정이 이제 {mode}입니다. 스캐너를 막지 않습니다"},
		},
		string(GuardOn): {
			English: {"Guard on again", "guard.mode is {mode} now"},
			Korean:  {"가드가 다시 켜졌습니다", "guard.mode 설정이 이제 {mode}입니다"},
		},
		string(BackendDown): {
			English: {"Backend down", "{backend} of {site}: {sentence}"},
			Korean:  {"백엔드가 응답하지 않습니다", "{site} 사이트의 {backend}: {sentence}"},
		},
		string(BackendUp): {
			English: {"Backend up again", "{backend} of {site} is up again after {lasted}"},
			Korean:  {"백엔드가 복구되었습니다", "{site} 사이트의 {backend}: {lasted} 만에 복구되었습니다"},
		},
		string(ReloadRefused): {
			English: {"Reload refused", "the new configuration was refused, the old one still runs: {sentence}"},
			Korean:  {"새 설정이 거부되었습니다", "새 설정이 거부되어 이전 설정으로 계속 동작합니다: {sentence}"},
		},
		string(Started): {
			English: {"Started", "postern {version} started"},
			Korean:  {"시작되었습니다", "postern {version} 시작됨"},
		},
		string(Notice): {
			English: {"Note", "{sentence}"},
			Korean:  {"알림", "{sentence}"},
		},
		string(Test): {
			English: {"Test message", "this is what a message looks like; it came through the channel {channel}"},
			Korean:  {"시험 메시지", "메시지는 이렇게 보입니다. {channel} 채널로 전송되었습니다"},
		},
	}
}

func labelTexts() map[string]both {
	return map[string]both{
		string(labelDigest):      {English: {head: "What happened"}, Korean: {head: "그동안의 일"}},
		string(labelDay):         {English: {head: "The last day"}, Korean: {head: "지난 하루"}},
		string(labelMore):        {English: {body: "and {n} more"}, Korean: {body: "그 밖에 {n}건"}},
		string(labelTimes):       {English: {body: "{n} times"}, Korean: {body: "{n}회"}},
		string(labelBans):        {English: {body: "{n} bans"}, Korean: {body: "차단 {n}건"}},
		string(labelRefused):     {English: {body: "{n} requests and connections refused"}, Korean: {body: "거부된 요청과 연결 {n}건"}},
		string(labelFamilies):    {English: {head: "What they tried"}, Korean: {head: "시도 유형"}},
		string(labelNetworks):    {English: {head: "From where"}, Korean: {head: "출발지"}},
		string(labelDropped):     {English: {body: "{n} messages had no room and are not listed"}, Korean: {body: "공간이 없어 목록에서 빠진 메시지 {n}건"}},
		string(labelChart):       {English: {body: "refused in each hour, the last one at the right"}, Korean: {body: "시간별 거부 건수 (맨 오른쪽이 최근)"}},
		string(labelUpdated):     {English: {body: "{from} to {to}"}, Korean: {body: "{from} ~ {to}"}},
		string(labelIncidents):   {English: {head: "Incidents"}, Korean: {head: "사건"}},
		string(labelNothingElse): {English: {body: "nothing else"}, Korean: {body: "그 밖의 일은 없습니다"}},
	}
}

// part is a piece of a phrase: our words, or a value and how it is shown.
type part struct {
	text  string
	class class
}

// phrase is a sentence whose values are still apart from our words, so that
// each service quotes them in its own way.
type phrase []part

// fill puts the values of args into the placeholders of a template. Missing
// ones show as "?".
func fill(template string, classes map[string]class, args map[string]string) phrase {
	var out phrase
	for template != "" {
		before, rest, ok := strings.Cut(template, "{")
		if before != "" {
			out = append(out, part{before, words})
		}
		if !ok {
			break
		}
		name, after, _ := strings.Cut(rest, "}")
		value := args[name]
		if value == "" {
			value = "?"
		}
		out = append(out, part{value, classes[name]})
		template = after
	}
	return out
}

// placeholders returns the names in a template, in their order.
func placeholders(template string) []string {
	var out []string
	for {
		_, rest, ok := strings.Cut(template, "{")
		if !ok {
			return out
		}
		name, after, _ := strings.Cut(rest, "}")
		out = append(out, name)
		template = after
	}
}
