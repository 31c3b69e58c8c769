/* beamlora_io.h compiles alone, and twice; see test/scripts/check-header.sh. */
#include "beamlora_io.h"
#include "beamlora_io.h"
