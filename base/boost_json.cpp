// The one place where Boost.JSON is compiled (Debian ships its headers only).
#include <boost/json/src.hpp>
