/* Messages that quote a file. */
#ifndef BEAMLORA_SRC_LINE_H
#define BEAMLORA_SRC_LINE_H

/* Control characters become '?': a message stays one line, and moves no cursor, whatever it
 * quotes. */
void line_clean(char *line);

#endif
