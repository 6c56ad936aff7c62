# table.awk: brings the columns of Markdown tables into line, so that they also read well as they are. Columns whose
# second row is "---:" are set to the right. Lines that do not start with "|" pass as they are. For LC_ALL=C, in which a
# character of UTF-8 is several bytes.

# Characters of a text: bytes but those that continue a character.
function width(text) {
    gsub(/[\200-\277]/, "", text)
    return length(text)
}

function fill(character, times,    text) {
    while (times-- > 0) text = text character
    return text
}

function print_table(    row, column, text, space, line) {
    for (row = 1; row <= rows; row++) {
        line = "|"
        for (column = 1; column <= columns; column++) {
            text = cell[row, column]
            space = most[column] - width(text)
            if (row == 2) text = fill("-", most[column] - right[column]) (right[column] ? ":" : "")
            else if (right[column]) text = fill(" ", space) text
            else text = text fill(" ", space)
            line = line " " text " |"
        }
        print line
    }
    rows = columns = 0
    split("", most)
    split("", right)
    split("", cell)
}

/^\|/ {
    rows++
    n = split($0, part, "|") - 2
    if (n > columns) columns = n
    for (i = 1; i <= n; i++) {
        if (most[i] < 3) most[i] = 3
        text = part[i + 1]
        gsub(/^ +| +$/, "", text)
        cell[rows, i] = text
        if (rows == 2) right[i] = text ~ /:$/ ? 1 : 0
        else if (width(text) > most[i]) most[i] = width(text)
    }
    next
}
rows { print_table() }
{ print }
END { if (rows) print_table() }
