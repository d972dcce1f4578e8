// Package docs embeds the pages that the exporter serves.
package docs

import _ "embed"

// Runbooks is runbooks.md, in Markdown.
//
//go:embed runbooks.md
var Runbooks string
