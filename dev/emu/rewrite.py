#!/usr/bin/env python3
"""rewrite.py IN OUT: turns the CUDA of one .cu or .cuh file that is not C++ into C++, for the emulator.

    kernel<T, 4><<<grid, block, bytes, stream>>>(a, b)   becomes   ::emu::launch(kernel<T, 4>,
                                                                       ::emu::Config(grid, block, bytes, stream))(a, b)
    __shared__ T x[N], y;                                becomes   references into the block's shared memory
    extern __shared__ T x[];                             becomes   a pointer to the launch's dynamic shared memory
    __launch_bounds__(n, ...) kernel(...) {              gets a check after the brace
    #pragma unroll                                       goes

Lines stay where they are, and a #line directive names IN, so that compilers, sanitizers and the emulator's reports
speak of the source as it was written. What is not recognised stays, and does not compile: __shared__ is a macro that
says so.
"""
import re
import sys

# Comments and literals. Everything is looked for in a copy of the text that has blanks in their place.
HIDDEN = re.compile(r'//[^\n]*|/\*.*?\*/|R"(\w*)\(.*?\)\1"|"(?:\\.|[^"\\\n])*"'
                    r"|(?<![0-9a-fA-F])'(?:\\.|[^'\\\n])+'", re.DOTALL)
ALIGNMENT = r'((?:__align__|alignas)\s*\([^()]*\)\s*)?'
TYPE = r'((?:(?:const|unsigned|struct)\s+)*[\w:]+(?:\s*<[^;\[]*>)?(?:\s*\*)*)'
DYNAMIC = re.compile(r'extern\s+__shared__\s+' + ALIGNMENT + TYPE + r'\s*' + ALIGNMENT + r'\b(\w+)\s*\[\s*\]\s*;')
STATIC = re.compile(r'(?<!extern )(?:static\s+)?__shared__\s+' + ALIGNMENT + TYPE + r'\s*' + ALIGNMENT +
                    r'\b(\w[^;]*);')
DECLARATOR = re.compile(r'\s*(\w+)\s*((?:\[[^\]]*\]\s*)*)$')


def blank(match):
    return re.sub(r'[^\n]', ' ', match.group())


def line_of(text, position):
    return text.count('\n', 0, position) + 1


def kernel_start(code, end):
    """Where the expression starts that names a kernel and ends at `end`: name, space::name or name<arguments>."""
    while code[end - 1].isspace():
        end -= 1
    if code[end - 1] == '>':
        end = matching_angle(code, end - 1)
        while code[end - 1].isspace():
            end -= 1
    name = re.search(r'[\w:]+$', code[:end])
    if not name:
        raise SyntaxError('a launch without a kernel name before it')
    return name.start()


def matching_angle(code, close):
    """The position of the < that the > at `close` belongs to. Angles inside parentheses are comparisons."""
    angles = parentheses = 0
    for i in range(close, -1, -1):
        if code[i] in '()':
            parentheses += 1 if code[i] == ')' else -1
        elif parentheses == 0 and code[i] == '>' and code[i - 1] != '-':
            angles += 1
        elif parentheses == 0 and code[i] == '<':
            angles -= 1
            if angles == 0:
                return i
    raise SyntaxError('template arguments without a beginning')


def launches(code):
    for begin in re.finditer('<<<', code):
        end = code.find('>>>', begin.end())
        if end < 0:
            raise SyntaxError(f'line {line_of(code, begin.start())}: <<< without >>>')
        start = kernel_start(code, begin.start())
        yield start, start, '::emu::launch('
        yield begin.start(), begin.end(), ', ::emu::Config('
        yield end, end + 3, '))'


def gnu_alignment(before_type, after_type):
    written = (before_type or after_type or '').strip()
    return re.sub(r'(__align__|alignas)\s*(\(.*\))', r'__attribute__((aligned\2)) ', written, flags=re.DOTALL)


def dynamic_shared(code):
    for m in DYNAMIC.finditer(code):
        before, element, after, name = m.groups()
        kind = f'typedef {gnu_alignment(before, after)}{element} emu_{name}_type;'
        pointer = (f'{element} *const {name} = '
                   f'static_cast<{element} *>(::emu::dynamic_shared(alignof(emu_{name}_type)));')
        yield m.start(), m.end(), f'{kind} {pointer}' + '\n' * m.group().count('\n')


def static_shared(code):
    for m in STATIC.finditer(code):
        before, element, after, declarators = m.groups()
        text = ''
        for declarator in re.split(r',(?![^\[(<]*[\])>])', declarators):
            parts = DECLARATOR.match(declarator)
            if not parts:
                raise SyntaxError(f'line {line_of(code, m.start())}: cannot read "{m.group().strip()}"')
            name, sizes = parts[1], parts[2].strip()
            text += (f'typedef {gnu_alignment(before, after)}{element} emu_{name}_type{sizes}; '
                     f'static ::emu::SharedVariable emu_{name}; '
                     f'emu_{name}_type &{name} = *static_cast<emu_{name}_type *>'
                     f'(emu_{name}.get(sizeof(emu_{name}_type), alignof(emu_{name}_type))); ')
        yield m.start(), m.end(), text.rstrip().replace('\n', ' ') + '\n' * m.group().count('\n')


def closing(code, opening):
    """The position after the parenthesis that closes the one at `opening`."""
    depth = 0
    for i in range(opening, len(code)):
        depth += {'(': 1, ')': -1}.get(code[i], 0)
        if depth == 0:
            return i + 1
    raise SyntaxError(f'line {line_of(code, opening)}: ( without )')


def launch_bounds(code):
    for m in re.finditer(r'__launch_bounds__\s*\(', code):
        end = closing(code, m.end() - 1)
        parameters = re.compile(r'[^;{(]*\w\s*\(').match(code, end)
        body = parameters and re.compile(r'\s*\{').match(code, closing(code, parameters.end() - 1))
        if body:  # else it is a declaration
            bounds = ' '.join(code[m.end():end - 1].split())
            yield body.end(), body.end(), f' ::emu::check_launch_bounds({bounds});'


def unrolls(code):
    for m in re.finditer(r'^[ \t]*#[ \t]*pragma[ \t]+unroll\b[^\n]*', code, re.MULTILINE):
        yield m.start(), m.end(), ''


def rewrite(text, path):
    code = HIDDEN.sub(blank, text)
    edits = [*launches(code), *dynamic_shared(code), *static_shared(code), *launch_bounds(code),
             *unrolls(code)]
    pieces = [f'#line 1 "{path}"\n']
    position = 0
    for start, end, replacement in sorted(edits, key=lambda edit: edit[:2]):
        pieces += [text[position:start], replacement]
        position = end
    return ''.join(pieces) + text[position:]


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    source, target = sys.argv[1:]
    with open(source, encoding='utf-8') as file:
        text = file.read()
    try:
        result = rewrite(text, source)
    except SyntaxError as error:
        sys.exit(f'{source}: {error}')
    with open(target, 'w', encoding='utf-8') as file:
        file.write(result)


if __name__ == '__main__':
    main()
